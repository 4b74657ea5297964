"""Writes `docs/settings.md`: every setting of every guard and of `Keyguard`, out of signatures and docstrings.

`python -m tests.support.settings_page` writes the page anew. Numbers have units, which no signature says: they stand in
`UNITS`, and a number without one is an error.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args

import keyguard
from keyguard.without_store import FailureMode

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
NETWORKS = {"allow", "deny", "exempt", "guess_exempt", "trusted_proxies"}
UNITS = {
    "anchor": "a day of the month, a weekday, or month and day",
    "after": "a rate: strikes per time",
    "by": '`"ip"`, `"key"`, `"subject"`, or a function',
    "clock": "a function, or a clock",
    "criticality": "a class, patterns with classes, or a function",
    "burst": "requests",
    "cost": "units",
    "default": "a plan's name, or rates: units per time",
    "failures": 'statuses: `401`, or `"4xx"`',
    "guesses": "rates: wrong keys per time; `None`: any number",
    "input_tokens": "a function: tokens",
    "ipv6_prefix": "bits",
    "limit": "requests at the same time",
    "guards": "guards",
    "headers": '`"draft-11"`, `"draft-next"`, `"x-ratelimit"`, `"github"`, several, or `None`',
    "max_body": "bytes",
    "max_entries": "responses",
    "max_in_flight": "requests",
    "max_variants": "responses of one URL",
    "min_in_flight": "requests",
    "of": "statuses, and causes",
    "output": "tokens",
    "pepper": "a text, or a mapping of version to text",
    "plans": "rates of each plan: units per time",
    "random": "a function: 0 to below 1",
    "rates": "rates: units per time",
    "refund_on": "statuses, and classes of exceptions",
    "settle": "a function: units",
    "store": "a URL, or a store",
    "tell": '`"all"` or `"binding"`',
    "trusted_hops": "proxies",
    "workers": "processes",
}
INTRODUCTION = """# Settings

<!-- `python -m tests.support.settings_page` has written this page, out of signatures and docstrings. -->

Every setting of every guard, and of `Keyguard` itself. A setting that is wrong stops the start, with a
`ConfigurationError` that says what would be right.

- A *duration* is a number of seconds, a `timedelta`, or a text such as `"250 ms"`, `"10 minutes"`, `"1h"`.
- A *rate* is a text such as `"10/second"` or `"5000/day"`; several stand in one text with `;` between them,
  or are given as a list.
- A *path pattern* is exact (`"/health"`), has variables (`"/items/{id}"`), or is a whole subtree (`"/docs/*"`). A list
  of them, or `path(...)`.
- *Networks* are texts such as `"10.0.0.0/8"` or `"2001:db8::1"`.
- *Bytes* are bytes: `67108864` is 64 MiB.
"""


def classes() -> list[type[Any]]:
    """Return the public guards, and `Keyguard`."""
    guards = [thing for name in keyguard.__all__ if is_guard(thing := getattr(keyguard, name))]
    return [keyguard.Keyguard, *sorted(guards, key=lambda guard: guard.__name__)]


def is_guard(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, keyguard.Guard) and thing is not keyguard.Guard


def settings_of(cls: type[Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


def unit_of(cls: type[Any], setting: inspect.Parameter) -> str:
    """Return what the values of a setting are counted in, or what they are."""
    name, kind = setting.name, str(setting.annotation)
    kind = kind.replace("FailureMode", "Literal" + str([*get_args(FailureMode)]))
    if "Literal" in kind and (words := re.findall(r"'([\w-]+)'", kind)):
        known = [word for word in words if word != "None"]
        return " or ".join([f'`"{word}"`' for word in known] + ["`None`"] * ("None" in kind))
    if name in NETWORKS and "Setting[" not in kind:
        return "networks"
    if "Duration" in kind:
        return "duration"
    if name.endswith("_bytes"):
        return "bytes"
    if name in UNITS:
        return UNITS[name]
    if "OnPaths" in kind:
        return "path patterns"
    if re.search(r"\b(int|float)\b", kind) and not re.search(r"Iterable\[int|Literal", kind):
        raise ValueError(f"{cls.__name__}({name}=...) is a number: say in UNITS what it counts")
    if kind in ("bool", "bool | None"):
        return "true or false" + (", or `None`" if "None" in kind else "")
    if "Callable" in kind or "Setting[" in kind or kind.startswith(("When", "Scopes", "Lookup")):
        return "a function, or its value" if "Setting[" in kind or "Scopes" in kind else "a function"
    if "Iterable[" in kind:
        return "names"
    if kind.startswith("str"):
        return "a text"
    return f"`{kind}`"


def default_of(setting: inspect.Parameter) -> str:
    value = setting.default
    if setting.kind is setting.VAR_POSITIONAL:
        return "none"
    if value is setting.empty:
        return "must be given"
    if value is ... or callable(value):
        return "its own"
    return f"`{value!r}`".replace("'", '"')


def meanings(cls: type[Any]) -> dict[str, tuple[list[str], str]]:
    """Return what the docstring says of each setting, with the names that one sentence is about."""
    found: dict[str, tuple[list[str], str]] = {}
    for item in re.findall(r"^- (.*?)(?=^- |^\s*$|\Z)", inspect.getdoc(cls) or "", re.M | re.S):
        head, _, text = " ".join(item.split()).partition(": ")
        names = re.findall(r"`(\w+)`", head)
        if "`" in re.sub(r"`\w+`", "", head) or not names:
            continue
        remark = re.sub(r"`\w+`|,| and ", " ", head).strip()
        for name in names:
            found[name] = (names, f"{remark} {text}".strip())
    return found


def page() -> str:
    """Return the text of the page. Raises `ValueError` for a setting without a unit, or of which no docstring tells."""
    text = INTRODUCTION
    for cls in classes():
        told, settings = meanings(cls), settings_of(cls)
        first = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
        text += (
            f"\n## {cls.__name__}\n\n{first}\n\n| setting | unit or form | by default | meaning |\n|---|---|---|---|\n"
        )
        done: set[str] = set()
        for name in settings:
            if name in done:
                continue
            if cls is keyguard.Keyguard and name == "guards":
                told[name] = ([name], "The guards, outermost first: objects, or functions of the request.")
            if name not in told:
                raise ValueError(
                    f"the docstring of {cls.__name__} tells nothing of {name}: add a line `- \\`{name}\\`: ...`"
                )
            names = [other for other in told[name][0] if other in settings]
            done |= {*names}
            cells = [
                [f"`{other}`" for other in names],
                [unit_of(cls, settings[other]) for other in names],
                [default_of(settings[other]) for other in names],
            ]
            if len({*cells[1]}) == 1:
                cells[1] = cells[1][:1]
            row = [*("<br>".join(cell) for cell in cells), told[name][1][:1].upper() + told[name][1][1:]]
            text += "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
