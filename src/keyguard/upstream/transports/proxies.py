"""Proxies of the environment. HTTP libraries leave them out if they are given a transport."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

from keyguard.upstream.origins import Origin


def proxy_for(origin: Origin) -> str | None:
    """Return the URL of the proxy by which `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` have an origin be
    reached, or the settings of the system do; `None` for no proxy.
    """
    proxies = getproxies()
    url = proxies.get(origin.scheme) or proxies.get("all")
    if not url or proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    return url if "://" in url else f"http://{url}"
