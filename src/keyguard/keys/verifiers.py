"""Slow hashes of keys, made elsewhere: which are read, and whether a key fits one.

    $argon2id$v=19$m=65536,t=3,p=4$...$...      argon2 (also argon2i, argon2d), by argon2-cffi
    $2b$12$...                                  bcrypt (also 2a, 2y), by bcrypt; keys of at most 72 bytes
    pbkdf2_sha256$600000$salt$...               Django's, and so that of djangorestframework-api-key before version 3
    sha512$$...                                 that of djangorestframework-api-key since

Django writes its own names before the others (`argon2$argon2id$...`, `bcrypt$$2b$...`); they are read too. A hash that
would take minutes, or gigabytes, is refused when it is imported.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from hmac import compare_digest

from keyguard.errors import StoreError

_ARGON2 = re.compile(r"\$argon2(?:id|i|d)\$v=\d+\$m=(\d{1,9}),t=(\d{1,4}),p=(\d{1,3})\$[\w+/.-]+\$[\w+/.-]+")
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_PBKDF2 = re.compile(r"pbkdf2_sha256\$(\d{1,8})\$([!-#%-~]+)\$([A-Za-z0-9+/]{43}=)")
_SHA512 = re.compile(r"sha512\$\$([0-9a-f]{128})")

_MOST_MEMORY, _MOST_TIME, _MOST_ROUNDS, _MOST_ITERATIONS = 1 << 20, 100, 15, 5_000_000  # the first in KiB
_BCRYPT_BYTES = 72


def scheme_of(verifier: str) -> str:
    """Return the name of a hash's scheme. Raises `ValueError`, which shows nothing of it, if it is none of those."""
    text = _bare(verifier)
    if found := _ARGON2.fullmatch(text):
        if int(found[1]) > _MOST_MEMORY or int(found[2]) > _MOST_TIME:
            raise ValueError(f"an argon2 hash takes at most m={_MOST_MEMORY} and t={_MOST_TIME}")
        _require("argon2")
        return "argon2"
    if found := _BCRYPT.fullmatch(text):
        if int(found[1]) > _MOST_ROUNDS:
            raise ValueError(f"a bcrypt hash takes at most 2**{_MOST_ROUNDS} rounds")
        _require("bcrypt")
        return "bcrypt"
    if found := _PBKDF2.fullmatch(text):
        if not 0 < int(found[1]) <= _MOST_ITERATIONS:
            raise ValueError(f"a PBKDF2 hash takes 1 to {_MOST_ITERATIONS} iterations")
        return "pbkdf2"
    if _SHA512.fullmatch(text):
        return "sha512"
    raise ValueError("this is no hash of argon2, bcrypt, pbkdf2_sha256 or sha512")


def fits(key: str, verifier: str) -> bool:
    """Tell whether a key fits a hash. It may take a second, and holds up its thread.

    Raises `StoreError` if the library that it needs is not installed.
    """
    text = _bare(verifier)
    try:
        scheme = scheme_of(verifier)
    except ImportError as error:
        raise StoreError(str(error)) from None
    except ValueError:
        return False
    data = key.encode()
    if scheme == "argon2":
        import argon2

        try:
            return argon2.PasswordHasher().verify(text, data)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    if scheme == "bcrypt":
        import bcrypt

        # What is longer would be cut, and a text that only begins like the key would be kept as the key.
        return len(data) <= _BCRYPT_BYTES and b"\0" not in data and bcrypt.checkpw(data, text.encode())
    if scheme == "pbkdf2":
        _, iterations, salt, wanted = text.split("$")
        made = hashlib.pbkdf2_hmac("sha256", data, salt.encode(), int(iterations))
        return compare_digest(b64encode(made).decode(), wanted)
    return compare_digest(hashlib.sha512(data).hexdigest(), text.rpartition("$")[2])


def _bare(verifier: str) -> str:
    """Return a hash without the name that Django writes before it."""
    for name, rest in (("argon2$", "$"), ("bcrypt$", "")):
        if verifier.startswith(name):
            return rest + verifier.removeprefix(name)
    return verifier


def _require(module: str) -> None:
    try:
        __import__(module)
    except ImportError:
        raise ImportError(f"hashes of {module} need a library: pip install 'keyguard[hashes]'") from None
