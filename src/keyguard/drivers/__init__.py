"""The drivers: they run guards around an app, one under ASGI, one under WSGI, and are all that does I/O for them."""
