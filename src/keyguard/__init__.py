"""The protections of an API gateway, inside the web app people already have.

    guard = Keyguard(IPFilter(deny=["203.0.113.0/24"]), APIKeys(), RateLimit("10/second", by="key"))
    app.add_middleware(guard.asgi)              # ASGI: FastAPI, Starlette, Litestar, ...
    app.wsgi_app = guard.wsgi(app.wsgi_app)     # WSGI: Flask, Django, Falcon, ...

Importing this package loads no web framework and no client of a store.
"""

from keyguard.conditions import path as path
from keyguard.errors import AmbiguousPath as AmbiguousPath
from keyguard.errors import ConfigurationError as ConfigurationError
from keyguard.errors import KeyguardError as KeyguardError
from keyguard.errors import KeyNotFound as KeyNotFound
from keyguard.errors import NoResponse as NoResponse
from keyguard.errors import StoreBusy as StoreBusy
from keyguard.errors import StoreError as StoreError
from keyguard.flow import blocking as blocking
from keyguard.guard import Guard as Guard
from keyguard.guards import APIKeys as APIKeys
from keyguard.guards import IPFilter as IPFilter
from keyguard.guards import RateLimit as RateLimit
from keyguard.guards import ResponseCache as ResponseCache
from keyguard.guards.cache import CacheStats as CacheStats
from keyguard.guards.cache import Explanation as Explanation
from keyguard.guards.cache import cache_control as cache_control
from keyguard.guards.cache import vary as vary
from keyguard.identity import ANONYMOUS as ANONYMOUS
from keyguard.identity import Identity as Identity
from keyguard.keys import IssuedKey as IssuedKey
from keyguard.keys import KeyRecord as KeyRecord
from keyguard.keys import KeyRegistry as KeyRegistry
from keyguard.problem import refuse as refuse
from keyguard.rates import smooth as smooth
from keyguard.refusal import Cause as Cause
from keyguard.refusal import Refusal as Refusal
from keyguard.request import Forward as Forward
from keyguard.request import Request as Request
from keyguard.response import Headers as Headers
from keyguard.response import Response as Response
from keyguard.stack.keyguard import Keyguard as Keyguard
from keyguard.stores import open_store as open_store

__version__ = "0.1.0"
