"""The request: `Request` as guards see it, `CarriedRequest` as drivers carry it."""

from keyguard.http.fields import FieldSet as FieldSet
from keyguard.request.carried import SHARED_ASGI as SHARED_ASGI
from keyguard.request.carried import SHARED_WSGI as SHARED_WSGI
from keyguard.request.carried import CarriedRequest as CarriedRequest
from keyguard.request.carried import Lasting as Lasting
from keyguard.request.carried import carried as carried
from keyguard.request.carried import veiled as veiled
from keyguard.request.current import current_request as current_request
from keyguard.request.current import here as here
from keyguard.request.limits import LimitState as LimitState
from keyguard.request.limits import Settled as Settled
from keyguard.request.limits import Shadowed as Shadowed
from keyguard.request.request import Deferred as Deferred
from keyguard.request.request import Forward as Forward
from keyguard.request.request import Request as Request
from keyguard.request.settings import RequestSettings as RequestSettings
from keyguard.request.state import RequestState as RequestState
from keyguard.request.state import SharedState as SharedState

__all__ = [
    "SHARED_ASGI",
    "SHARED_WSGI",
    "CarriedRequest",
    "Deferred",
    "FieldSet",
    "Forward",
    "Lasting",
    "LimitState",
    "Request",
    "RequestSettings",
    "RequestState",
    "Settled",
    "Shadowed",
    "SharedState",
    "carried",
    "current_request",
    "here",
    "veiled",
]
