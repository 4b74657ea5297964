"""The words of a command to people, without what may be a secret: a key, the password of a store's URL.

What was meant for one option may have ended up in the place of another, and an error tells what it was given. The
output of a command ends in logs of deployments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ISSUED = re.compile(r"(?<![0-9A-Za-z])([A-Za-z][A-Za-z0-9]*_[A-Za-z][A-Za-z0-9]*_[0-9A-Za-z]{8,16}_)[0-9A-Za-z]{8,}")
_LOGIN = re.compile(r"(?<=://)\S*@")
_RUN = re.compile(r"[0-9A-Za-z]{16,}")


def veiled(text: str, words: Iterable[str] = ()) -> str:
    """Return a text without the secrets of keys, and without what stands before the host of a URL.

    `words` are those of the command line: of these also every long mixture of letters and digits is taken out, for a
    key that was made elsewhere has any form. Ids of keys, addresses, dates and UUIDs are none.
    """
    text = _LOGIN.sub("***@", _ISSUED.sub(r"\1***", text))
    for word in words:
        for run in _RUN.findall(word):
            if not run.isalpha() and not run.isdigit():
                text = text.replace(run, "***")
    return text
