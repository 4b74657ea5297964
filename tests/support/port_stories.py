"""What the services of `examples/ports/` do, told to one of them: `python -m tests.support.port_stories NAME SIDE`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from tests.support.servers import wait_until

PORTS = Path(__file__).parents[2] / "examples" / "ports"


def fastapi_slowapi(service: Any) -> None:
    from starlette.testclient import TestClient

    reader, writer, other = service.issue("ada"), service.issue("bob", "write"), service.issue("eve", "write")

    def bearer(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    with TestClient(service.app, client=("198.51.100.1", 40000)) as client:
        assert {client.get("/health").status_code for _ in range(150)} == {200}
        assert client.get("/links").status_code == 401
        assert "Bearer" in client.get("/links").headers["www-authenticate"]
        assert client.get("/links", headers=bearer(reader[:-1] + "~")).status_code == 401
        assert client.get("/links", headers=bearer(reader)).json() == {}
        assert client.get("/links", headers={"X-API-Key": reader}).status_code == 200
        assert client.post("/links/a?target=x", headers=bearer(reader)).status_code == 403
        made = [client.post(f"/links/{name}?target=x", headers=bearer(writer)) for name in "abcd"]
        assert [answer.status_code for answer in made] == [201, 201, 201, 429]
        assert made[0].json() == {"link": "/go/a"}
        assert 0 < int(made[3].headers["retry-after"]) <= 60
        assert client.post("/links/d?target=y", headers=bearer(other)).status_code == 201
        assert client.get("/links", headers=bearer(writer)).json() == {"a": "x", "b": "x", "c": "x"}
        gone = [client.get("/go/a") for _ in range(6)]
        assert [answer.status_code for answer in gone] == [200] * 5 + [429]
        assert gone[0].json() == {"target": "x"}
        service.revoke(writer)
        wait_until(
            lambda: client.get("/links", headers=bearer(writer)).status_code == 401, "a revoked key to be refused"
        )
        many = [client.get("/links", headers=bearer(other)).status_code for _ in range(101)]
        assert (many[0], many[-1], 429 in many[:95]) == (200, 429, False)
    with TestClient(service.app, client=("198.51.100.2", 40000)) as client:
        assert client.get("/go/a").status_code == 200
        assert client.get("/go/none").status_code == 404


def flask_limiter_caching(service: Any) -> None:
    app = service.create_app()
    client = app.test_client()
    assert {client.get("/health").status_code for _ in range(250)} == {200}

    def login(password: str, address: str = "198.51.100.1") -> Any:
        form = {"name": "ada", "password": password}
        return client.post("/login", data=form, environ_overrides={"REMOTE_ADDR": address}, buffered=True)

    assert [login("lovelace").status_code for _ in range(5)] == [200] * 5
    wrong = [login("wrong") for _ in range(4)]
    assert [answer.status_code for answer in wrong] == [401, 401, 401, 429]
    assert 0 < int(wrong[3].headers["Retry-After"]) <= 62
    assert login("lovelace").status_code == 429
    assert login("lovelace", "198.51.100.2").status_code == 200

    assert client.get("/partners/prices").status_code == 401
    assert client.get("/partners/prices", headers={"X-API-Key": "wrong"}).status_code == 401
    ada, bob = ({"X-API-Key": service.issue(owner)} for owner in ("ada", "bob"))
    asked = [client.get("/partners/prices", headers=ada) for _ in range(4)]
    assert [answer.status_code for answer in asked] == [200, 200, 200, 429]
    assert asked[0].json == {"for": "ada", "tea": 3, "coffee": 5}
    assert client.get("/partners/prices", headers=bob).status_code == 200

    for _ in range(3):
        assert client.get("/products/").json == {"tea": 3, "coffee": 5}
        assert client.get("/products/?q=tea").json == {"tea": 3}
    assert len(service.runs) == 2
    assert client.put("/products/tea?price=4").json == {"tea": 4}
    assert client.get("/products/?q=tea").json == {"tea": 4}
    assert client.get("/products/").json == {"tea": 4, "coffee": 5}
    many = [client.get("/products/").status_code for _ in range(201)]
    assert (many[0], many[-1]) == (200, 429)


def django_rest_framework(service: Any) -> None:
    from django.test import Client

    client = Client()

    def ask(method: str, path: str, key: str | None = None, address: str = "198.51.100.1") -> Any:
        fields = {} if key is None else {"Authorization": f"Bearer {key}"}
        return getattr(client, method)(path, headers=fields, REMOTE_ADDR=address)

    ada, bob, eve = service.issue("ada"), service.issue("bob", "export"), service.issue("eve", "export")
    assert {ask("get", "/health").status_code for _ in range(50)} == {200}
    anonymous = [ask("get", "/status") for _ in range(6)]
    assert [answer.status_code for answer in anonymous] == [200] * 5 + [429]
    assert anonymous[0].json() == {"reports": 3}
    assert 0 < int(anonymous[5].headers["Retry-After"]) <= 62
    assert ask("get", "/status", address="198.51.100.2").status_code == 200

    assert ask("get", "/reports", address="198.51.100.3").status_code == 401
    refused = ask("get", "/reports", ada[:-1] + "~", "198.51.100.3")
    assert (refused.status_code, "Bearer" in refused.headers["WWW-Authenticate"]) == (401, True)
    assert ask("get", "/reports", ada).json() == {"for": "ada"}
    assert ask("post", "/export", ada).status_code == 403
    made = [ask("post", "/export", bob) for _ in range(3)]
    assert [answer.status_code for answer in made] == [201, 201, 429]
    assert made[0].json() == {"by": "bob"}
    assert ask("post", "/export", eve).status_code == 201
    many = [ask("get", "/reports", eve).status_code for _ in range(12)]
    assert (many[0], many[-1]) == (200, 429)
    service.revoke(bob)
    wait_until(lambda: ask("get", "/reports", bob).status_code == 401, "a revoked key to be refused")


def main(name: str, side: str) -> None:
    sys.path.insert(0, str(PORTS / name))
    globals()[name](importlib.import_module(side))
    print("told", name, side)


if __name__ == "__main__":
    main(*sys.argv[1:])
