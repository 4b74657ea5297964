"""For Django: a stack of guards in `MIDDLEWARE`, which guards what Django's test clients ask for as well.

    MIDDLEWARE = ["keyguard.django.Middleware", ...]
    KEYGUARD = "project.guards.guard"                     # the dotted path of a Keyguard
    INSTALLED_APPS = [..., "keyguard.django"]             # for `manage.py check` and `manage.py keyguard`

Classes for Django REST framework stand in `keyguard.django.rest`.
"""

from keyguard.django.middleware import Middleware as Middleware
from keyguard.django.middleware import RefusedMiddleware as RefusedMiddleware

__all__ = ["Middleware", "RefusedMiddleware"]
