"""Apps that are protected by other libraries, as their documentation has it."""

import logging
from typing import Any

from apps import ONE_RATE, RATES, bare_flask, full_guard, networks


def composed_fastapi() -> tuple[Any, str]:
    """The same from three libraries: FastAPI's own `APIKeyHeader`, slowapi, fastapi-guard."""
    from fastapi import Depends, FastAPI, HTTPException, Request, Response
    from fastapi.security import APIKeyHeader
    from guard import SecurityConfig, SecurityMiddleware
    from slowapi import Limiter
    from slowapi.util import get_remote_address

    logging.disable(logging.WARNING)
    key = full_guard()[1]
    known = {key: "bench"}
    header = APIKeyHeader(name="X-API-Key")
    limiter = Limiter(key_func=get_remote_address, headers_enabled=True)

    def caller(sent: str = Depends(header)) -> str:
        if sent not in known:
            raise HTTPException(401)
        return known[sent]

    app = FastAPI()
    app.state.limiter = limiter
    config = SecurityConfig(
        blacklist=networks(1000),
        enable_redis=False,
        enable_rate_limiting=False,
        enable_penetration_detection=False,
        enable_ip_banning=False,
        passive_mode=False,
    )
    app.add_middleware(SecurityMiddleware, config=config)

    @app.get("/hello")
    @limiter.limit(RATES.replace(" ", ""))
    async def hello(request: Request, response: Response, who: str = Depends(caller)) -> dict[str, str]:
        return {"hello": "world"}

    return app, key


def slowapi_fastapi() -> Any:
    from fastapi import FastAPI, Request, Response
    from slowapi import Limiter
    from slowapi.util import get_remote_address

    limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
    app = FastAPI()
    app.state.limiter = limiter

    @app.get("/hello")
    @limiter.limit(ONE_RATE)
    async def hello(request: Request, response: Response) -> dict[str, str]:
        return {"hello": "world"}

    return app


def limiter_fastapi() -> Any:
    """fastapi-limiter, as its quick start has it: one count in memory for all callers, and no header fields."""
    from fastapi import Depends, FastAPI
    from fastapi_limiter.depends import RateLimiter
    from pyrate_limiter import Duration, Limiter, Rate

    app = FastAPI()
    quota = int(ONE_RATE.partition("/")[0])

    @app.get("/hello", dependencies=[Depends(RateLimiter(limiter=Limiter(Rate(quota, Duration.SECOND))))])
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    return app


def limiter_flask() -> Any:
    from flask_limiter import Limiter
    from flask_limiter.util import get_remote_address

    app = bare_flask()
    Limiter(get_remote_address, app=app, default_limits=[ONE_RATE], headers_enabled=True, storage_uri="memory://")
    return app
