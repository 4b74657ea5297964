"""Django's table of URLs as templates: its own patterns, its regular expressions, and prefixes of languages.

A regular expression is read as far as it says which segments a path has. From where it does not, the rest of the path
may be anything: then a rule may be about it, and none is said to be about all of it that only names a part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from keyguard.drivers.inspection.objects import class_of_view


class View(NamedTuple):
    """A view under one of its templates."""

    template: str
    methods: frozenset[str]
    callback: Any


def views_of(patterns: Sequence[Any], prefixes: Sequence[str] = ("",)) -> Iterator[View]:
    """List all views below some patterns of URLs, with a template for each form that their path may have."""
    for pattern in patterns:
        below = getattr(pattern, "url_patterns", None)
        own = _templates(pattern.pattern, ends=below is None)
        texts = [prefix if prefix.endswith("*") else prefix + text for prefix in prefixes for text in own]
        texts = [*dict.fromkeys(texts)][:_MOST]
        if below is not None:
            yield from views_of(below, texts)
            continue
        view = pattern.callback
        methods = {name.upper() for name in getattr(view, "actions", None) or ()}
        kind = class_of_view(view)
        if not methods and kind is not None:
            methods = {name.upper() for name in getattr(kind, "http_method_names", ()) if hasattr(kind, name)}
        for text in texts:
            yield View("/" + text, frozenset(methods), view)


_MOST = 16
"""Forms of the path of one view."""


def _templates(pattern: Any, *, ends: bool) -> list[str]:
    """Return the templates of one pattern. `ends`: whether it is that of a view, not of what is included."""
    text = str(pattern)
    kind = type(pattern).__name__
    if kind == "LocalePrefixPattern":  # its text is the prefix of the language that is active just now
        return ["{language}/"] if pattern.prefix_default_language else ["{language}/", ""]
    if hasattr(pattern, "_regex_pattern") or kind == "RegexPattern":
        return templates_of_regex(text, ends=ends)
    for name, converter in getattr(pattern, "converters", {}).items():
        if may_hold_slash(str(getattr(converter, "regex", ""))):
            text = re.sub(rf"<(?:[^<>:]+:)?{re.escape(name)}>", f"<path:{name}>", text)
    return [text]


def templates_of_regex(text: str, *, ends: bool = True) -> list[str]:
    """Return the templates of a regular expression, as Django matches it with a path."""
    if not text and not ends:
        return [""]
    whole = ends and text.endswith("$") and not text.endswith(r"\$")
    if not text.startswith("^") and not whole:
        return ["*"]  # Django searches for it, anywhere in the path
    try:
        return [*dict.fromkeys(_read(text.removeprefix("^"), ends))][:_MOST]
    except ValueError:
        return ["*"]


def _read(text: str, ends: bool) -> Iterator[str]:
    """Yield the templates of the rest of an expression."""
    found = ""
    tokens = _tokens(text)
    for place, (token, many, after) in enumerate(tokens):
        if token in ("$", r"\Z", r"\z"):
            yield found
            return
        if token == "|":
            raise ValueError("either of several")
        if token.startswith(("(?=", "(?!", "(?<=", "(?<!", "^", r"\b", r"\A")):
            continue  # of no width
        literal = _literal(token)
        if literal == "/" and many == "?" and all(one in ("$", r"\Z", r"\z") for one, *_ in tokens[place + 1 :]):
            continue  # with and without a slash at the end is one
        if literal is not None and not many:
            found += literal
        elif not may_hold_slash(token):
            found += "{}"
        elif many == "?" and token.startswith("("):
            rest = text[after:]
            yield from (found + one for one in _read(rest, ends))
            yield from (found + one for one in _read(_inside(token) + rest, ends))
            return
        elif token.startswith("(") and not many and "|" not in token:
            yield from (found + one for one in _read(_inside(token) + text[after:], ends))
            return
        else:
            yield _with_rest(found)
            return
    yield _with_rest(found) if ends else found


def _with_rest(found: str) -> str:
    """Return a template of which all from its last segment on may be anything."""
    return found[: found.rfind("/") + 1] + "*"


def _tokens(text: str) -> list[tuple[str, str, int]]:
    """Cut an expression into its parts: each with how often it may come, and where what is after that begins."""
    found: list[tuple[str, str, int]] = []
    for match in _TOKEN.finditer(text):
        token, place = match.group(), match.start()
        if found and place < found[-1][2]:
            continue  # within the group before
        end = _end_of_group(text, place) if token == "(" else match.end()
        many = _MANY.match(text, end)
        assert many is not None
        found.append((text[place:end], many.group().rstrip("?+") or many.group()[:1], many.end()))
    return found


_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_MANY = re.compile(r"(?:[*+?][?+]?|\{\d*,?\d*\}[?+]?)?")


def _end_of_group(text: str, begin: int) -> int:
    depth = 0
    for match in _TOKEN.finditer(text, begin):
        depth += (match.group() == "(") - (match.group() == ")")
        if not depth:
            return match.end()
    raise ValueError("a group without an end")


def _inside(group: str) -> str:
    """Return what stands in the brackets of a group."""
    return _GROUP.sub("", group[1:-1], count=1)


_GROUP = re.compile(r"^\?(?:P<\w+>|[a-zA-Z-]*:|>)")


def _literal(token: str) -> str | None:
    """Return the character that a part stands for; `None` if it may be several."""
    if len(token) == 2 and token[0] == "\\":
        return None if token[1].isalnum() else token[1]
    return token if len(token) == 1 and token not in ".()" else None


def may_hold_slash(text: str) -> bool:
    """Tell whether what a part of an expression matches may have a slash in it."""
    for match in _TOKEN.finditer(_inside(text) if text.startswith("(") else text):
        token = match.group()
        if token in ("/", ".", r"\/", r"\S", r"\D", r"\W"):
            return True
        if token.startswith("[") and len(token) > 1 and re.compile(token).match("/") is not None:
            return True
    return False
