"""Words for kinds: what has become of requests, causes of refusals, states of keys, notices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from keyguard.dashboard.looks.formats import counted

Series: TypeAlias = Literal["served", "cached", "denied", "overload", "fault", "usage"]
"""The kinds of requests that charts show, by its colour: six kinds, and never more."""
Tone: TypeAlias = Literal["good", "warn", "bad", "quiet"]

SERIES: Mapping[Series, str] = {
    "served": "Served",
    "cached": "From cache",
    "denied": "Denied",
    "overload": "Too busy",
    "fault": "Out of order",
    "usage": "Limit reached",
}
"""As legends name them, in the order of a bar from its foot: what was refused stands on top."""
SERIES_OF: Mapping[str, Series] = {
    "served": "served",
    "cached": "cached",
    "failed": "fault",
    "usage": "usage",
    "fault": "fault",
    "upstream": "fault",
    "overload": "overload",
    "credentials": "denied",
    "permission": "denied",
    "address": "denied",
    "request": "denied",
}

TONES: Mapping[Tone, str] = {"good": "In order:", "warn": "Warning:", "bad": "Problem:", "quiet": "Note:"}
"""The words for an icon, for those who do not see it."""


class Meaning(NamedTuple):
    """A cause of refusals: its title, which is that of the refusal, what it means, and what to do about it."""

    title: str
    means: str
    advice: str


CAUSES: Mapping[str, Meaning] = {
    "usage": Meaning("Limit reached", "The caller used up a limit.", "Works again by itself."),
    "fault": Meaning("Out of order", "The store or the app failed.", "The key is not exhausted."),
    "overload": Meaning("Too busy", "The app was saturated.", "Nobody’s key is to blame."),
    "credentials": Meaning("Valid API key needed", "No key, or not a valid one.", "Its owner needs a new one."),
    "permission": Meaning(
        "Not permitted", "A valid key without the scope or plan.", "Grant the scope, or change the plan."
    ),
    "address": Meaning("Address refused", "An address that is denied or banned.", "A ban ends by itself."),
    "request": Meaning("Bad request", "It can be read in two ways.", "The client must be mended."),
    "upstream": Meaning(
        "Upstream unavailable", "The app’s own upstream keys are used up.", "The key is not exhausted."
    ),
}


def cause(word: str) -> Meaning:
    """Return the words for a cause, also for one that a later version of keyguard has written."""
    return CAUSES.get(word) or Meaning(word.capitalize() or "Not known", "", "")


STATES: Mapping[str, tuple[str, Tone]] = {
    "active": ("Active", "good"),
    "will-run-out": ("Runs out soon", "warn"),
    "exhausted": ("Exhausted", "bad"),
    "refused": ("Refused", "bad"),
    "pending": ("Not valid yet", "warn"),
    "rotating": ("Being replaced", "warn"),
    "replaced": ("Replaced", "quiet"),
    "disabled": ("Disabled", "bad"),
    "expired": ("Expired", "bad"),
    "revoked": ("Revoked", "bad"),
    "unknown": ("Not known", "quiet"),
}

UPSTREAM: Mapping[str, tuple[str, Tone]] = {
    "ok": ("In use", "good"),
    "exhausted": ("Used up", "warn"),
    "quota": ("Quota used up", "bad"),
    "ramp": ("Grew too fast", "warn"),
    "billing": ("To be paid for", "bad"),
    "invalid": ("Not valid", "bad"),
    "unsupported": ("Not permitted", "bad"),
    "overload": ("Provider too busy", "warn"),
}


def upstream(state: str) -> tuple[str, Tone]:
    """Return the words for the state of an upstream key."""
    return UPSTREAM.get(state, ("Left alone", "warn"))


LEVELS: Mapping[str, tuple[str, Tone]] = {
    "critical": ("Critical", "bad"),
    "warning": ("Warning", "warn"),
    "resolved": ("Resolved", "good"),
}

DONE: Mapping[str, str] = {
    "issued": "The key was issued.",
    "rotated": "The key was rotated.",
    "revoked": "The key was revoked. It works nowhere from now on.",
    "updated": "The key was changed. All processes know it within a second.",
    "purged": "It was removed from the cache.",
    "enabled": "The key, and its limit group, are tried again at once.",
}


class Said(NamedTuple):
    """A sentence in a banner, and what more there is to say."""

    tone: Tone
    what: str
    more: str = ""
    rest: tuple[str, ...] = ()
    """Sentences that are shown to whoever asks for more."""


_NOTICES: Mapping[str, Said] = {
    "no-usage": Said(
        "quiet",
        "Nothing is known of the past.",
        "Requests are counted from Keyguard(..., usage=Usage()) on; limits and keys are shown as they are now.",
    ),
    "store-down": Said("bad", "The store is out of order.", "Requests are decided as each guard’s setting says."),
    "ledger-down": Said(
        "warn", "The ledger cannot be read.", "Requests are decided as ever: it only remembers them."
    ),
    "incomplete": Said(
        "warn",
        "More happened than is shown.",
        "A process ended before it had written its last records, or there were more callers than the ledger holds.",
    ),
    "read-only": Said("quiet", "You may look, but not change anything.", ""),
    "inside-limits": Said(
        "warn",
        "The app’s own limits decide about this page.",
        "Mount the dashboard outside of them, so that it can be seen when they are used up.",
    ),
}  # fmt: skip


def notice(kind: str, count: int, text: str) -> Said:
    """Return what a notice says."""
    if kind == "done":
        return Said("good", DONE.get(text, "It was done."))
    if kind == "failed":
        return Said("bad", text)
    if kind == "dropped":
        return Said(
            "warn", f"{counted(count, 'record')} could not be written.", "More happened than the numbers below say."
        )
    said = _NOTICES[kind]
    return said._replace(more=text) if text else said


PROBLEMS: Mapping[str, tuple[str, str]] = {
    "csrf": (
        "This form did not come from here",
        "Nothing was changed. Go back, load the page again, and send the form once more.",
    ),
    "not-found": ("There is no such page", "The way here may have been mistyped."),
    "no-such-key": ("There is no such key", "No key has this id. It may belong to another store."),
    "forbidden": ("Not permitted", "Your key may not do this. A key with the scope keyguard:admin may."),
    "method": ("This page cannot be used like that", "Go back, and use its forms and links."),
    "too-long": ("That was too long", "Nothing was changed. The form takes less."),
    "form": ("The form could not be read", "Nothing was changed. Go back, and send it once more."),
    "sent-twice": (
        "This form was sent already",
        "Its key was made, and shown, the first time. No second one was made.",
    ),
    "store-down": (
        "The store is out of order",
        "It cannot be read now. Requests are decided as each guard’s setting says; nothing was changed from here.",
    ),
    "failed": ("Something went wrong", "The log of the app says what. Nothing else is known here."),
    "logged-out": ("You have logged out", "The session has ended, in all tabs."),
}

LOG_IN_ERRORS: Mapping[str, str] = {
    "wrong": "This is not a valid key.",
    "ended": "Your session has ended. Log in again.",
    "not-allowed": "This key may not see the dashboard. It needs the scope keyguard:read or keyguard:admin.",
    "too-many": "There were too many wrong keys from your address. Try again later.",
    "store-down": "The store is out of order, so that no key can be checked. Try again in a moment.",
    "insecure": "Browsers keep a session on https:// and on localhost only.",
}

SPANS: Mapping[str, tuple[str, str]] = {
    "1h": ("1 h", "the last hour"),
    "24h": ("24 h", "the last 24 hours"),
    "7d": ("7 d", "the last 7 days"),
    "30d": ("30 d", "the last 30 days"),
}


def limit_reason(policies: tuple[str, ...], reason: str, cause: str) -> str:
    """Return by what a request was refused: the names of limits, else the reason in the words of the log."""
    if policies:
        return ", ".join(policies)
    return "" if reason == cause else reason.replace("-", " ")
