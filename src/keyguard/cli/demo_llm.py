"""The story of a provider's keys, told by real servers: `keyguard demo --llm`.

A provider that speaks as OpenAI does, with few requests a minute, and a gateway before it (`llm_gateway.py`) that has
two keys of it and two callers. What happens there stands in `Story`.
"""

import http.client
import json
import logging
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keyguard import APIKeys, ConfigurationError, Key, Keyguard, KeyPool, ResponseCache, TokenBudget, UpstreamCauses
from keyguard.cli.demo_servers import listen, stay_up
from keyguard.cli.demo_story import HOST, Reply, Server, command, say, sleep_until
from keyguard.clock import monotonic, pause
from keyguard.testing import FakeProvider

log = logging.getLogger("keyguard")

LIMITS = {"org-a": {"rpm": 12}, "org-b": {"rpm": 6}}
BUDGET = "5000/day"
MOST = 60
"""Requests after which both keys must have run dry, however slow the machine is."""
QUESTION = "Hello?"
LONG_QUESTION = "Why? " * 1600  # 2000 tokens


def run(serve: bool, port: int | None) -> int:
    """Tell the story; with `serve`, stay up afterwards. Return the exit code: 0 if all went as it should."""
    provider = FakeProvider("openai", keys={"sk-eu": "org-a", "sk-spare": "org-b"}, limits=LIMITS, pace=0.1)
    with tempfile.TemporaryDirectory(prefix="keyguard-demo-") as folder, provider.serving() as url:
        store = f"sqlite:///{Path(folder, 'gateway.db')}"
        guard = Keyguard(
            APIKeys(pepper="a pepper of the demo alone"),
            TokenBudget(BUDGET, by="key", mode="soft"),
            ResponseCache(),
            UpstreamCauses(),
            store=store,
        )
        keys = [Key("eu", "sk-eu", group="org-a"), Key("spare", "sk-spare", group="org-b", rank=1)]
        pool = KeyPool(keys, profile="openai", origin=url, store=store, max_wait=1)
        with serving(guard, pool, url, port) as gateway:
            print(f"A provider at {url}: 12 requests a minute for the key of org-a, 6 for that of org-b.")
            print(f"A gateway at {gateway.url}: it has both keys, and lets each of its callers spend {BUDGET} tokens.")
            story = Story(gateway, guard, provider, store)
            went_well = story.tell()
            if serve:
                _stay(gateway, story)
            else:
                print("`keyguard demo --llm --serve` stays up; examples/llm_gateway.py is the gateway.")
    return 0 if went_well else 1


@contextmanager
def serving(guard: Keyguard, pool: KeyPool, provider: str, port: int | None) -> Iterator[Server]:
    """Run the gateway, up and answering, and stop it on the way out."""
    try:
        import uvicorn

        from keyguard.cli.llm_gateway import gateway
    except ImportError as error:
        raise ConfigurationError(f"the demo needs {error.name}: pip install 'keyguard[demo]'") from error
    listening = listen(port)
    config = uvicorn.Config(gateway(guard, pool, provider), log_level="critical", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    level = log.level
    try:
        log.setLevel(logging.CRITICAL)  # the story tells of refusals itself
        while not server.started and thread.is_alive():
            pause(0.01)
        yield Server("gateway", listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()
        guard.close()
        log.setLevel(level)


class Story:
    """The demo's requests. Each says what it expects, and is held to it."""

    def __init__(self, gateway: Server, guard: Keyguard, provider: FakeProvider, store: str) -> None:
        self.gateway = gateway
        self.provider = provider
        self.store = store
        self.ada = guard.keys.issue("ada").key.reveal()
        self.bob = guard.keys.issue("bob").key.reveal()
        self.as_expected = True

    def tell(self) -> bool:
        say("ada asks with a key of the gateway; the provider sees one of its own, and nothing of hers")
        answer = self.ask("ada", 200)
        print(f"           {json.loads(answer.body)['choices'][0]['message']['content']!r}")
        self.check(not self.provider.saw(self.ada), "her key has not left the gateway", "that it is not there")

        say("A stream passes as it comes")
        self.stream("ada")

        say("Which models there are is asked once, and cached for everybody")
        for _ in range(2):
            models = self.send("GET", "/v1/models", self.ada)
            self.check(models.status == 200, f"GET /v1/models -> {models.status} {models.reason}", 200)
            print(f"           cache-status: {models.headers.get('cache-status')}")

        say(f"bob asks long questions, until his tokens are spent: {BUDGET}")
        for expected in (200, 200, 429):
            answer = self.ask("bob", expected, LONG_QUESTION)
        self.explain(answer, "usage")

        say("Somebody else spends the rest of org-a's limit. The pool bounces to org-b: ada sees 200, and nothing else")
        self.provider.spend("org-a", {"requests": LIMITS["org-a"]["rpm"]})
        self.ask("ada", 200)
        self.check(self.provider.served["org-b"] > 0, self.seen(), "requests of org-b")

        say(
            "Both run dry, which the pool knows without asking. ada is told that she is not to blame, and when it works"
        )
        refused = self.until_refused()
        self.check(refused.status == 503, self.seen(), 503)
        began = monotonic()
        self.explain(refused, "upstream")
        wait = int(refused.headers.get("retry-after", 0))
        self.check(1 <= wait <= 10, f"Retry-After: {wait}", "1 to 10")

        say("bob's refusal is his own doing, so it stays one")
        self.explain(self.ask("bob", 429, LONG_QUESTION), "usage")

        say("What the pool knows")
        status = command("upstream", "status", store=self.store)
        if not ("org-a" in status and "org-b" in status):
            self.check(False, "which does not name both", "org-a and org-b")

        say(f"{wait} s after the refusal it works again")
        sleep_until(began + wait)
        self.ask("ada", 200)
        print(f"  {self.seen()}")
        print()
        print("All as it should be." if self.as_expected else "Something was NOT as it should be: see above.")
        return self.as_expected

    # -- requests -------------------------------------------------------------------------------------------------

    def ask(self, name: str, expected: int, question: str = QUESTION) -> Reply:
        """Ask the model something, and print the status."""
        answer = self.send("POST", "/v1/chat/completions", self.ada if name == "ada" else self.bob, question)
        self.check(answer.status == expected, f"{name}  POST /v1/chat/completions -> {told(answer)}", expected)
        return answer

    def until_refused(self) -> Reply:
        """Have ada ask until she is refused, and print the statuses."""
        statuses = []
        for _ in range(MOST):
            answer = self.send("POST", "/v1/chat/completions", self.ada, QUESTION)
            statuses.append(str(answer.status))
            if answer.status != 200:
                break
        print(f"  ada  POST /v1/chat/completions, {len(statuses)} times -> {' '.join(statuses)}")
        return answer

    def send(self, method: str, path: str, key: str, question: str | None = None) -> Reply:
        """Send one request to the gateway."""
        connection, answer = self.open(method, path, key, question)
        try:
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, answer.reason, fields, answer.read())
        finally:
            connection.close()

    def stream(self, name: str) -> None:
        """Ask for a stream, and print its pieces with the time at which each came."""
        began = monotonic()
        connection, answer = self.open("POST", "/v1/chat/completions", self.ada, QUESTION, stream=True)
        moments = []
        try:
            for line in answer:
                moments.append(monotonic() - began)
                event = line.decode().strip().removeprefix("data: ")
                if event and event != "[DONE]" and (piece := json.loads(event)["choices"][0]["delta"].get("content")):
                    print(f"           after {moments[-1]:.1f} s: {piece!r}")
        finally:
            connection.close()
        self.check(answer.status == 200, f"{name}  POST /v1/chat/completions -> {answer.status} {answer.reason}", 200)
        self.check(moments[-1] - moments[0] >= 0.1, f"{len(moments)} lines, not all at once", "pieces")

    def open(
        self, method: str, path: str, key: str, question: str | None, stream: bool = False
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(HOST, self.gateway.port, timeout=20)
        fields = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body: dict[str, Any] = {"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": question}]}
        if stream:
            body["stream"] = True
        connection.request(method, path, None if question is None else json.dumps(body), fields)
        return connection, connection.getresponse()

    # -- what is seen ---------------------------------------------------------------------------------------------

    def seen(self) -> str:
        """Return what the provider has seen."""
        provider = self.provider
        served = ", ".join([f"{count} of {group}" for group, count in provider.served.items()])
        return f"the provider has served {served}, and had to refuse {provider.refused.total()}"

    def explain(self, refused: Reply, cause: str) -> None:
        """Print a refusal, and hold it to its cause."""
        problem = refused.problem if refused.status >= 400 else {}
        self.check(problem.get("cause") == cause, f"cause: {problem.get('cause')}", cause)
        print(f"           retry-after: {refused.headers.get('retry-after')}")
        print(textwrap.indent(textwrap.fill(str(problem.get("detail")), 100), " " * 11))

    def check(self, good: bool, line: str, expected: object) -> None:
        self.as_expected &= good
        print(f"  {line}{'' if good else f'  (expected {expected})'}")


def told(answer: Reply) -> str:
    return f"{answer.status} {answer.reason}"


def _stay(gateway: Server, story: Story) -> None:
    print("\nStaying up. Try, until both keys of the provider are dry, or ada's tokens are spent:\n")
    body = '{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
    key = f"-H 'Authorization: Bearer {story.ada}'"
    print(f"  curl -i {gateway.url}/v1/chat/completions {key} --json '{body}'")
    print(f"  curl -i {gateway.url}/v1/models {key}")
    print(f"  keyguard upstream status --store {story.store}")
    print(f"  OpenAI(base_url='{gateway.url}/v1', api_key='{story.ada}')")
    stay_up()
