"""The WSGI driver: guards around a WSGI app."""

from keyguard.drivers.wsgi.driver import WSGIApp as WSGIApp
from keyguard.drivers.wsgi.driver import WSGIDriver as WSGIDriver

__all__ = ["WSGIApp", "WSGIDriver"]
