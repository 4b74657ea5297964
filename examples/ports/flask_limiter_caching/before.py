"""A catalogue: Flask, limits by Flask-Limiter, a cache by Flask-Caching. Ported in `after.py`."""

import hmac
import os

from flask import Blueprint, Flask, Response, abort, g, jsonify, request
from flask_caching import Cache
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

USERS = {"ada": "lovelace"}
KEYS: dict[str, str] = {}


def owner() -> str | None:
    sent = request.headers.get("X-API-Key", "")
    return next((owner for key, owner in KEYS.items() if hmac.compare_digest(key, sent)), None)


limiter = Limiter(
    key_func=lambda: owner() or get_remote_address(),  # it runs before the blueprint's `known`
    default_limits=["200/hour"],
    storage_uri=os.environ.get("LIMITS_URL", "memory://"),
    strategy="moving-window",
    headers_enabled=True,
)
cache = Cache(config={"CACHE_TYPE": "SimpleCache", "CACHE_DEFAULT_TIMEOUT": 60})
stock = {"tea": 3, "coffee": 5}
runs: list[str] = []
shop = Blueprint("shop", __name__, url_prefix="/products")
partners = Blueprint("partners", __name__, url_prefix="/partners")
limiter.limit("3/minute")(partners)


def issue(owner: str) -> str:
    key = os.urandom(16).hex()
    KEYS[key] = owner
    return key


@partners.before_request
def known() -> None:
    g.owner = owner()
    if g.owner is None:
        abort(401)


def is_failure(response: Response) -> bool:
    return response.status_code == 401


@shop.get("/")
@cache.cached(query_string=True)
def products() -> Response:
    runs.append("products")
    words = request.args.get("q", "")
    return jsonify({name: price for name, price in stock.items() if words in name})


@shop.put("/<name>")
def reprice(name: str) -> Response:
    stock[name] = int(request.args["price"])
    cache.clear()  # of one URL with a query the key is not known
    return jsonify({name: stock[name]})


@partners.get("/prices")
def prices() -> Response:
    return jsonify({"for": g.owner, **stock})


def create_app() -> Flask:
    app = Flask("catalogue")
    limiter.init_app(app)
    cache.init_app(app)
    app.register_blueprint(shop)
    app.register_blueprint(partners)

    @app.get("/health")
    @limiter.exempt
    def health() -> Response:
        return jsonify(ok=True)

    @app.post("/login")
    @limiter.limit("3/minute", key_func=get_remote_address, deduct_when=is_failure)
    def login() -> Response:
        if USERS.get(request.form["name"]) != request.form["password"]:
            abort(401)
        return jsonify(ok=True)

    @app.errorhandler(429)
    def refused(error: Exception) -> tuple[Response, int]:
        return jsonify(error=f"Limit reached: {error}"), 429

    return app
