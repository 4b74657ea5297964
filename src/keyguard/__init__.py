"""The protections of an API gateway, inside the web app people already have.

    guard = Keyguard(IPFilter(deny=["203.0.113.0/24"]), APIKeys(), RateLimit("10/second", by="key"))
    app.add_middleware(guard.asgi)              # ASGI: FastAPI, Starlette, Litestar, ...
    app.wsgi_app = guard.wsgi(app.wsgi_app)     # WSGI: Flask, Django, Falcon, ...

Importing this package loads nothing: each name brings what it needs when it is used, and none of them a web framework
or a client of a store. So a command or a script starts quickly that needs little of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyguard.alerts import Alert, AlertBook, AlertMessage, Alerts, Webhook, notify, slack
    from keyguard.audit import AuditLog, AuditRecord
    from keyguard.body_fields import form_field, json_field
    from keyguard.conditions import path
    from keyguard.decision import Decision, log_decision
    from keyguard.errors import (
        AmbiguousPath,
        ConfigurationError,
        KeyguardError,
        KeyNotFound,
        NoResponse,
        OutsideRequest,
        StoreBusy,
        StoreError,
    )
    from keyguard.flow import blocking
    from keyguard.guard import Guard
    from keyguard.guards import (
        APIKeys,
        Ban,
        Concurrency,
        IPFilter,
        Overload,
        RateLimit,
        ResponseCache,
        TokenBudget,
        UpstreamCauses,
    )
    from keyguard.guards.cache import CacheStats, Explanation, cache_control, vary
    from keyguard.guards.overload import OverloadStats
    from keyguard.guards.rate_limit import Outcome
    from keyguard.identity import ANONYMOUS, Identity
    from keyguard.keys import BrokenImport, ForeignKey, Imports, IssuedKey, KeyRecord, KeyRegistry
    from keyguard.problem import refuse
    from keyguard.rates import credits, quota, smooth
    from keyguard.refusal import Cause, Refusal
    from keyguard.refused import Refused
    from keyguard.request import Forward, LimitState, Request, RequestState, here
    from keyguard.response import Headers, Response
    from keyguard.stack.handlers import Reservation
    from keyguard.stack.keyguard import Keyguard
    from keyguard.stack.limit_actions import LimitChange, LimitUse
    from keyguard.stack.limits import Limits
    from keyguard.stores import open_store
    from keyguard.upstream.answers import UpstreamOutcome
    from keyguard.upstream.by_hand import UpstreamExhausted
    from keyguard.upstream.causes import UpstreamCause
    from keyguard.upstream.events import UpstreamEvent
    from keyguard.upstream.keys import Key
    from keyguard.upstream.pool import KeyPool
    from keyguard.upstream.snapshot import PoolSnapshot
    from keyguard.usage import Usage, UsageReader, UsageReport
    from keyguard.why import Diagnosis, RequestReport
__all__ = [
    "ANONYMOUS",
    "APIKeys",
    "Alert",
    "AlertBook",
    "AlertMessage",
    "Alerts",
    "AmbiguousPath",
    "AuditLog",
    "AuditRecord",
    "Ban",
    "BrokenImport",
    "CacheStats",
    "Cause",
    "Concurrency",
    "ConfigurationError",
    "Decision",
    "Diagnosis",
    "Explanation",
    "ForeignKey",
    "Forward",
    "Guard",
    "Headers",
    "IPFilter",
    "Identity",
    "Imports",
    "IssuedKey",
    "Key",
    "KeyNotFound",
    "KeyPool",
    "KeyRecord",
    "KeyRegistry",
    "Keyguard",
    "KeyguardError",
    "LimitChange",
    "LimitState",
    "LimitUse",
    "Limits",
    "NoResponse",
    "Outcome",
    "OutsideRequest",
    "Overload",
    "OverloadStats",
    "PoolSnapshot",
    "RateLimit",
    "Refusal",
    "Refused",
    "Request",
    "RequestReport",
    "RequestState",
    "Reservation",
    "Response",
    "ResponseCache",
    "StoreBusy",
    "StoreError",
    "TokenBudget",
    "UpstreamCause",
    "UpstreamCauses",
    "UpstreamEvent",
    "UpstreamExhausted",
    "UpstreamOutcome",
    "Usage",
    "UsageReader",
    "UsageReport",
    "Webhook",
    "blocking",
    "cache_control",
    "credits",
    "form_field",
    "here",
    "json_field",
    "log_decision",
    "notify",
    "open_store",
    "path",
    "quota",
    "refuse",
    "slack",
    "smooth",
    "vary",
]

__version__ = "0.2.0"

_PLACES = {
    "alerts": "Alert AlertBook AlertMessage Alerts Webhook notify slack",
    "audit": "AuditLog AuditRecord",
    "body_fields": "form_field json_field",
    "conditions": "path",
    "decision": "Decision log_decision",
    "errors": (
        "AmbiguousPath ConfigurationError KeyguardError KeyNotFound NoResponse OutsideRequest StoreBusy StoreError"
    ),
    "flow": "blocking",
    "guard": "Guard",
    "guards": "APIKeys Ban Concurrency IPFilter Overload RateLimit ResponseCache TokenBudget UpstreamCauses",
    "guards.cache": "CacheStats Explanation cache_control vary",
    "guards.overload": "OverloadStats",
    "guards.rate_limit": "Outcome",
    "identity": "ANONYMOUS Identity",
    "keys": "BrokenImport ForeignKey Imports IssuedKey KeyRecord KeyRegistry",
    "problem": "refuse",
    "rates": "credits quota smooth",
    "refusal": "Cause Refusal",
    "refused": "Refused",
    "request": "Forward LimitState Request RequestState here",
    "response": "Headers Response",
    "stack.handlers": "Reservation",
    "stack.keyguard": "Keyguard",
    "stack.limit_actions": "LimitChange LimitUse",
    "stack.limits": "Limits",
    "stores": "open_store",
    "upstream.answers": "UpstreamOutcome",
    "upstream.by_hand": "UpstreamExhausted",
    "upstream.causes": "UpstreamCause",
    "upstream.events": "UpstreamEvent",
    "upstream.keys": "Key",
    "upstream.pool": "KeyPool",
    "upstream.snapshot": "PoolSnapshot",
    "usage": "Usage UsageReader UsageReport",
    "why": "Diagnosis RequestReport",
}
"""The module of each name; the lines above say the same to type checkers, and a test compares them."""
_MODULES = {name: module for module, names in _PLACES.items() for name in names.split()}


if not TYPE_CHECKING:  # with it type checkers take every name for one of ours

    def __getattr__(name: str) -> Any:
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
