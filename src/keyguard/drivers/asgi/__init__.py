"""The ASGI driver: guards around an ASGI app."""

from keyguard.drivers.asgi.driver import ASGIApp as ASGIApp
from keyguard.drivers.asgi.driver import ASGIDriver as ASGIDriver

__all__ = ["ASGIApp", "ASGIDriver"]
