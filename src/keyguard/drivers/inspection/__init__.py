"""Look into an app before any request: its prefixes, its middleware, and the layers of keyguard inside it."""
