"""The dashboard: pages that show operators who is refused, and why, and change keys. Mounted in ASGI and WSGI apps."""
