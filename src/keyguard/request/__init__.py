"""The request, as a guard sees it."""

from keyguard.http.fields import FieldSet as FieldSet
from keyguard.request.head import RequestSettings as RequestSettings
from keyguard.request.request import SHARED_ASGI as SHARED_ASGI
from keyguard.request.request import SHARED_WSGI as SHARED_WSGI
from keyguard.request.request import Deferred as Deferred
from keyguard.request.request import Forward as Forward
from keyguard.request.request import Request as Request
from keyguard.request.request import veiled as veiled
from keyguard.request.state import RequestState as RequestState

__all__ = [
    "SHARED_ASGI",
    "SHARED_WSGI",
    "Deferred",
    "FieldSet",
    "Forward",
    "Request",
    "RequestSettings",
    "RequestState",
    "veiled",
]
