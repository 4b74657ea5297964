"""What a page of documentation shows, cut out of it: its blocks of code, and checks that its readers do not see.

A page can neither leave a block out nor mark it as one that does not run:

- A block has a language of `LANGUAGES`. Fences of another form, and languages that are not listed, fail.
- A `python` block runs alone, in a namespace and with a store of its own. After `<!-- continues -->` on the line above,
  it goes on in those of the block before it. If it begins with a comment that names a file, such as `# shop/urls.py`,
  it is written there and imported. If it has tests, pytest runs it. If it makes an `app`, that is started, and asked
  for `/`; a `guard` is asked for `/health`.
- The commands of a `sh` block are run, see `tests/support/page_commands.py`, and so are those of a `console` block:
  its lines that begin with `$`. What such a block shows of output is not compared.
- All others are read as what they are: JSON, TOML and so on.
- `<!-- check`, on lines of its own until `-->`, is Python that no reader of the site sees. It goes on in the namespace
  of the block above it, and asserts what the page says; `PROJECT` is the folder of this project there.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = {"console", "python", "sh", "http", "ini", "json", "nginx", "text", "toml", "yaml"}
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
}

_PIECE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$|^ *<!-- check\n(?P<check>.*?)^ *-->$",
    re.S | re.M,
)

_REMARKS = [
    (
        r"^ *<!-- continues",
        r"^ *<!-- continues -->\n+ *```python$",
        "no block of Python is what continues",
    ),
    (r"^ *<!-- check", r"^ *<!-- check\n.*?^ *-->$", "a check has another form"),
]
"""How remarks begin, how they look as a whole, and what to say if they do not."""


@dataclass(frozen=True)
class Piece:
    """A block of a page, or a check beside one."""

    kind: str
    """A language, or `check`."""
    code: str
    line: int
    """The line of the page that stands before its first one."""
    continues: bool = False

    @property
    def file(self) -> str | None:
        """The name of the file that a block of Python says it is."""
        found = re.match(r"# ([\w/]+\.py)\n", self.code)
        return found[1] if found and self.kind == "python" else None

    @property
    def has_tests(self) -> bool:
        return self.kind == "python" and re.search(r"^(?:async )?def test_", self.code, re.M) is not None


def pieces_of(text: str) -> Iterator[Piece]:
    """Cut a page up. Raises `ValueError` if something in it looks like code and is no block."""
    fences = len(re.findall(r"^\s*(?:>\s*)*(?:```|~~~)", text, re.M))
    seen = 2 * sum(found["check"] is None for found in _PIECE.finditer(text))
    if seen != fences:
        raise ValueError(f"{fences} lines look like fences of code, but only {seen} of them belong to a block")
    for found in _PIECE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["check"] is not None:
            yield Piece("check", textwrap.dedent(found["check"]), line)
            continue
        language = found["language"].strip()
        if language not in LANGUAGES:
            raise ValueError(f"line {line}: a block of {language or 'no language'!r}; known are {sorted(LANGUAGES)}")
        before = text[: found.start()].rstrip()
        yield Piece(language, textwrap.dedent(found["code"]), line, before.endswith("<!-- continues -->"))
    if re.search(r"<(?:pre|code)\b", text):
        raise ValueError("code in HTML is not run: use a block")
    for begin, whole, error in _REMARKS:
        if len(re.findall(begin, text, re.M)) != len(re.findall(whole, text, re.M | re.S)):
            raise ValueError(error)
