"""The files that pages load, and the policy that lets them load nothing else."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No page has a script, a style or an attribute of these inside of it: what somebody calls a key can do nothing."""
_FOLDER = Path(__file__).parent / "files"
_MEDIA_TYPES = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class File(NamedTuple):
    """A file as it is sent."""

    body: bytes
    media_type: str
    tag: str
    """A hash of the body. Pages have it in the file's URL, so that browsers may keep the file for good."""


def _read(name: str, media_type: str) -> File:
    body = (_FOLDER / name).read_bytes()
    return File(body, media_type, blake2b(body, digest_size=8).hexdigest())


_FILES = {name: _read(name, media_type) for name, media_type in _MEDIA_TYPES.items()}
"""All of them, read at once: an app whose package lacks one does not start."""


def file(name: str) -> File | None:
    """Return a file by its name; `None` if there is none."""
    return _FILES.get(name)
