"""The same catalogue with keyguard: what it was before stands in `before.py`."""

from flask import Blueprint, Flask, Response, abort, jsonify, request

from keyguard import APIKeys, Keyguard, RateLimit, ResponseCache, cache_control, path

USERS = {"ada": "lovelace"}

guard = Keyguard(
    RateLimit("3/minute", by="ip", paths=["/login"], count="failures"),
    APIKeys(paths=["/partners/*"]),
    RateLimit("200/hour", by="key", exempt=path("/health")),
    ResponseCache(),
)
stock = {"tea": 3, "coffee": 5}
runs: list[str] = []
shop = Blueprint("shop", __name__, url_prefix="/products")
partners = Blueprint("partners", __name__, url_prefix="/partners")
partners.before_request(guard.limit("3/minute"))


def issue(owner: str) -> str:
    return guard.keys.issue(owner).key.reveal()


@shop.get("/")
@cache_control(max_age=60, public=True, tags=["products"])
def products() -> Response:
    runs.append("products")
    words = request.args.get("q", "")
    return jsonify({name: price for name, price in stock.items() if words in name})


@shop.put("/<name>")
def reprice(name: str) -> Response:
    stock[name] = int(request.args["price"])
    guard.cache.purge(tag="products")
    return jsonify({name: stock[name]})


@partners.get("/prices")
def prices() -> Response:
    return jsonify({"for": guard.here().caller.subject, **stock})


def create_app() -> Flask:
    app = Flask("catalogue")
    guard.init_app(app)
    app.register_blueprint(shop)
    app.register_blueprint(partners)

    @app.get("/health")
    def health() -> Response:
        return jsonify(ok=True)

    @app.post("/login")
    def login() -> Response:
        if USERS.get(request.form["name"]) != request.form["password"]:
            abort(401)
        return jsonify(ok=True)

    return app
