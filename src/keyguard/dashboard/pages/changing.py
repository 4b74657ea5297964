"""The forms that change keys: each does what its method of `guard.keys` does, and notes who did it.

Rules:
- What is wrong with a form is said beside its field, and the form keeps what was typed.
- A key is shown in the answer to the form that made it, and nowhere else. A form that is sent twice, by a second click
  or a page that is loaded again, makes one key: its field `once` is noted in the store.
- Whole keys stand in no URL: a search is posted, and a key in it leads to the page of its id.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time
from typing import Any

from keyguard.clock import SECOND
from keyguard.dashboard.answers import Elsewhere, Outcome, Shown
from keyguard.dashboard.pages.heads import head_of
from keyguard.dashboard.pages.key import key
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import IssuedKey, IssueKey, Notice
from keyguard.digests import digest
from keyguard.errors import ConfigurationError, KeyNotFound
from keyguard.keys import IssuedKey as Issued
from keyguard.keys import KeyRegistry, parse_key
from keyguard.keys.drafts import draft
from keyguard.ops import Put

_ONCE = "dashboard|once|"
_KEPT = 24 * 3600 * SECOND
_NONCE = re.compile(r"[0-9A-Za-z_-]{16,64}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_NOT_ASKED: dict[str, Any] = {"scopes": (), "networks": (), "metadata": None, "not_before": None, "expires": None}
_FIELDS = ("owner", "name", "subject", "plan", "scopes", "networks", "expires")
_WORDS = {"a scope": "scopes", "a network": "networks", "network": "networks", "a reason": "reason"}


def find(reading: Reading) -> Outcome:
    """Go to what is looked for."""
    form = reading.asked.form
    text = form.get("find", "")
    whole = parse_key(text)
    if whole is not None:
        return Elsewhere(f"{reading.asked.root}keys/{whole.id}")
    return Elsewhere(reading.href("keys", find=text[:200], state=form.get("state", "")[:20]))


def issue_form(reading: Reading) -> Outcome:
    """Show the form of a new key."""
    if reading.service.registry is None:
        return reading.problem(404, "not-found")
    if reading.operator is None or not reading.operator.may_change:
        return reading.problem(403, "forbidden")
    return Shown(_form(reading, {}, {}))


def _form(reading: Reading, form: Mapping[str, str], errors: Mapping[str, str]) -> IssueKey:
    plans = {plan for rules in reading.service.rules for facts in rules.facts for plan in facts.plans or ()}
    return IssueKey(
        shell=reading.shell("keys", reload=0),
        form={name: form.get(name, "") for name in _FIELDS},
        errors=errors,
        once=form.get("once", "") or secrets.token_urlsafe(16),
        plans=tuple(sorted(plans)),
        scopes=("keyguard:admin", "keyguard:read"),
    )


def issue(reading: Reading) -> Outcome:
    """Issue a key, and show it."""
    registry, form = reading.service.registry, reading.asked.form
    if registry is None:
        return reading.problem(404, "not-found")
    once = form.get("once", "")
    if not _NONCE.fullmatch(once):
        return reading.problem(400, "form")
    errors: dict[str, str] = {}
    given = {
        "subject": form.get("subject") or None,
        "plan": form.get("plan") or None,
        "name": form.get("name") or None,
        **_given(form, errors),
    }
    if not form.get("owner"):
        errors["owner"] = "Say who answers for the key."
    if errors:
        return Shown(_form(reading, form, errors), 422)

    def make() -> Issued:
        draft(reading.service.clock(), registry.prefix, registry.env, **{**_NOT_ASKED, **given}, owner=form["owner"])
        if not reading.service.store.execute([Put(_ONCE + digest([once]), b"1", _KEPT, expected=None)])[0]:
            raise _SentTwice
        return registry.issue(form["owner"], **given, actor=reading.actor)

    try:
        issued = make()
    except _SentTwice:
        return reading.problem(409, "sent-twice")
    except (ValueError, ConfigurationError) as error:
        return Shown(_form(reading, form, {_field_of(error): _sentence(error)}), 422)
    return Shown(_shown_once(reading, registry, issued))


class _SentTwice(Exception):
    """A form came a second time."""


def _shown_once(reading: Reading, registry: KeyRegistry, issued: Issued, *, rotated: bool = False) -> IssuedKey:
    record = issued.record
    until = registry.get(record.replaces).retires if rotated and record.replaces else None
    return IssuedKey(
        shell=reading.shell("keys", reload=0, done=Notice("done", text="rotated" if rotated else "issued")),
        head=head_of(record, reading.now),
        secret=issued.key.reveal(),
        example_url="https://api.example.com/",
        href=reading.href("keys", record.id),
        rotated=rotated,
        old_until=None if until is None else until.astimezone(UTC),
    )


def rotate(reading: Reading, id: str) -> Outcome:
    """Issue a successor of a key, and show it."""
    form = reading.asked.form
    registry = reading.service.registry

    def change(keys: KeyRegistry) -> Outcome:
        issued = keys.rotate(id, overlap=form.get("overlap") or "24 hours", actor=reading.actor)
        return Shown(_shown_once(reading, keys, issued, rotated=True))

    return _changed(reading, registry, id, "rotate", change)


def revoke(reading: Reading, id: str) -> Outcome:
    """Make a key invalid, for good."""
    form = reading.asked.form

    def change(keys: KeyRegistry) -> Outcome:
        keys.revoke(id, form.get("reason") or None, actor=reading.actor)
        return Elsewhere(reading.href("keys", id, done="revoked"))

    return _changed(reading, reading.service.registry, id, "revoke", change)


def update(reading: Reading, id: str) -> Outcome:
    """Change what the form has of a key: a field that is not in it stays as it is."""
    form = reading.asked.form

    def change(keys: KeyRegistry) -> Outcome:
        errors: dict[str, str] = {}
        given = _given(form, errors)
        if errors:
            return key(reading, id, "update", form, errors)
        if "owner" in form:
            given["owner"] = form["owner"]
        if "plan" in form:
            given["plan"] = form["plan"] or None
        if given:
            keys.update(id, **given, actor=reading.actor)
        return Elsewhere(reading.href("keys", id, done="updated"))

    return _changed(reading, reading.service.registry, id, "update", change)


def _changed(
    reading: Reading, registry: KeyRegistry | None, id: str, what: str, change: Callable[[KeyRegistry], Outcome]
) -> Outcome:
    if registry is None:
        return reading.problem(404, "not-found")
    try:
        return change(registry)
    except KeyNotFound:
        return reading.problem(404, "no-such-key")
    except (ValueError, ConfigurationError) as error:
        return key(reading, id, what, reading.asked.form, {_field_of(error): _sentence(error)})


def _given(form: Mapping[str, str], errors: dict[str, str]) -> dict[str, Any]:
    """Return the lists and moments of a form, for `KeyRegistry`."""
    given: dict[str, Any] = {}
    for name in ("scopes", "networks"):
        if name in form:
            given[name] = form[name].replace(",", " ").split()
    if "expires" in form:
        given["expires"] = _moment(form["expires"], errors)
    return given


def _moment(text: str, errors: dict[str, str]) -> datetime | str | None:
    """Return the end of a day, or a duration from now; `None` for no text."""
    if _DAY.fullmatch(text):
        try:
            return datetime.combine(datetime.strptime(text, "%Y-%m-%d").date(), time(23, 59, 59), UTC)
        except ValueError:
            errors["expires"] = "There is no such day."
            return None
    if text and not text[0].isdecimal():
        errors["expires"] = "Write a day, such as 2027-01-31, or how long it is to work, such as 90 days."
    return text or None


def _field_of(error: Exception) -> str:
    """Return which field an error is about: its text begins with the name."""
    text = str(error)
    for word in (*_FIELDS, "overlap", "reason"):
        if text.startswith(f"{word} "):
            return word
    return next((name for word, name in _WORDS.items() if text.startswith(word)), "")


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
