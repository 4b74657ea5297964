"""The verdict on a caller: its state, and the sentences that tell it. Pure: a diagnosis without words goes in.

Rules:
- First what bars the key itself, then what bars its caller, then limits; the worst is said first, the rest after it.
- A fault, an overload or an exhausted upstream is never blamed on the caller, and each sentence about one says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from keyguard.why.advice import advice_for
from keyguard.why.diagnosis import OF_KEYS, BanState, Diagnosis, Level, LimitReport, RefusedFor, State
from keyguard.why.spending import OTHER
from keyguard.why.words import ago, ahead, clock, counted, joined, limit_words, number, percent, span

NEARLY = 0.8
"""The share of a limit of an hour or more from which on it is nearly used up."""
_LONG = timedelta(hours=1)
_LEVELS: dict[State, Level] = {"works": "good", "unused": "good", "nearly": "warning", "pending": "warning"}
_SOON = timedelta(minutes=1)
"""A limit that is used up for so long at most is a warning."""


def judged(found: Diagnosis) -> Diagnosis:
    """Return a diagnosis with its state and its sentences."""
    state = _state(found)
    found = replace(found, state=state, level=_level(found, state))
    headline, details, advice = _Sentences(found).all()
    return replace(found, headline=tuple(headline), details=tuple(details), advice=tuple(advice))


def _state(found: Diagnosis) -> State:
    status = found.key.status if found.key is not None else "active"
    for state in OF_KEYS:
        if status == state:
            return state
    if any(ban.caller in _names(found) for ban in found.bans):
        return "banned"
    if found.exhausted:
        return "exhausted"
    if any(_is_near(limit) for limit in found.limits):
        return "nearly"
    if found.kind == "address" and any(one.cause == "address" for one in found.refused):
        return "refused"
    if found.requests is not None and not found.requests.requests and not any(limit.spent for limit in found.limits):
        return "unused"
    return "works"


def _level(found: Diagnosis, state: State) -> Level:
    if state == "exhausted" and all(_is_soon_over(limit, found.at) for limit in found.limits if limit.exhausted):
        return "warning"
    return _LEVELS.get(state, "bad")


def _is_soon_over(limit: LimitReport, now: datetime) -> bool:
    return limit.kind == "slots" or (limit.works_at is not None and limit.works_at - now <= _SOON)


def _names(found: Diagnosis) -> set[str]:
    return {found.caller, found.subject} - {""}


def _is_near(limit: LimitReport) -> bool:
    return limit.share >= NEARLY and not limit.exhausted and (limit.period is None or limit.period >= _LONG)


def deciding(limits: Sequence[LimitReport]) -> LimitReport | None:
    """Return the limit that decides: one that is used up and lasts longest, else the fullest of those that last."""
    if not limits:
        return None
    spent = [limit for limit in limits if limit.exhausted]
    if spent:
        return max(spent, key=_works_at)
    return max(limits, key=_size)


def _works_at(limit: LimitReport) -> datetime:
    if limit.kind == "slots":  # they come back when a request ends
        return datetime.min.replace(tzinfo=UTC)
    return limit.works_at or datetime.max.replace(tzinfo=UTC)


def _size(limit: LimitReport) -> tuple[bool, timedelta, float]:
    return limit.kind in ("quota", "credits"), limit.period or timedelta(0), limit.share


class _Sentences:
    """The sentences about one caller."""

    def __init__(self, found: Diagnosis) -> None:
        self.found = found
        self.now = found.at
        nouns = {"key": "The key", "address": "The address"}
        self.who = nouns.get(found.kind, f"{found.caller}" if found.kind == "subject" else "The caller")

    def all(self) -> tuple[list[str], list[str], list[str]]:
        return self.headline(), self.details(), advice_for(self.found)

    # -- what is the matter -------------------------------------------------------------------------------

    def headline(self) -> list[str]:
        state = self.found.state
        if state in OF_KEYS:
            return self._of_key()
        if state == "banned":
            return self._banned()
        if state == "exhausted":
            return self._exhausted()
        if state == "nearly":
            return [self._nearly(limit) for limit in self.found.limits if _is_near(limit)]
        if state == "refused":
            return ["The address was refused for itself, and no ban is in force: a filter of the stack denies it."]
        if state == "unused":
            return [
                f"Nothing has been asked for in {ago(self.found.since, self.now)}, and nothing bars {self._them()}."
            ]
        return self._works()

    def _them(self) -> str:
        return {"key": "the key", "address": "the address"}.get(self.found.kind, "the caller")

    def _of_key(self) -> list[str]:
        key, now = self.found.key, self.now
        assert key is not None
        at = "" if key.since is None else f" {clock(key.since, now)}"
        if key.status == "revoked":
            return [f"The key was revoked{at}{self._reason(key.why)} and works no more."]
        if key.status == "expired":
            past = "" if key.since is None else f", {span(now - key.since)} ago"
            return [f"The key has expired{at}{past}."]
        if key.status == "replaced":
            return [f"The key was replaced by {key.replaced_by}, and has stopped working{at}."]
        if key.status == "disabled":
            return ["The key is disabled, and is refused until it is enabled again."]
        if key.status == "pending":
            begins = "later" if key.until is None else ahead(key.until, now)
            return [f"The key works only later: {begins}."]
        return [f"No key {key.id} stands in this store: it was never issued here, or it was deleted."]

    @staticmethod
    def _reason(why: str | None) -> str:
        return "" if why is None else f" ({why})"

    def _banned(self) -> list[str]:
        found = []
        for ban in self.found.bans:
            if ban.caller in _names(self.found):
                since = clock(ban.since, self.now).removeprefix(_AT)
                again = "" if ban.number < 2 else f" It is the ban number {ban.number} in a row."
                found.append(f"{self.who} is banned by {ban.guard} since {since}.")
                found.append(f"It is let in again {ahead(ban.until, self.now)}.{again}")
        return found

    def _exhausted(self) -> list[str]:
        first, *others = [limit for limit in self.found.limits if limit.exhausted]
        said = [self._used_up(first), self._back(first)]
        if others:
            names = joined([f"the {limit_words(limit)}" for limit in others])
            said.append(f"{names[0].upper()}{names[1:]} {'is' if len(others) == 1 else 'are'} used up as well.")
        return said

    def _used_up(self, limit: LimitReport) -> str:
        words = limit_words(limit)
        if limit.kind == "slots":
            held = counted(limit.held, "request")
            verb = "is" if limit.held == 1 else "are"
            return f"All places are in use: {held} {verb} under way, of {number(limit.limit)} at most."
        if limit.held and limit.spent < limit.limit:
            return f"The {words} is used up: {number(limit.spent)} are spent, and {number(limit.held)} are reserved."
        if limit.used_up_at is not None:
            return f"The {words} was used up {clock(limit.used_up_at, self.now)}."
        return f"The {words} is used up."

    def _back(self, limit: LimitReport) -> str:
        if limit.kind == "slots":
            return f"{self.who} is let in again when one of them ends."
        if limit.works_at is None:
            return "Nothing of it comes back by itself: only a grant helps."
        return f"{self.who} works again {ahead(limit.works_at, self.now)}."

    def _nearly(self, limit: LimitReport) -> str:
        end = limit.ends if limit.kind == "quota" else None
        until = "" if end is None else f" until {clock(end, self.now).removeprefix(_AT)}"
        left = number(limit.remaining)
        return f"{percent(limit.share)} of the {limit_words(limit)} is used: {left} are left{until}."

    def _works(self) -> list[str]:
        refused = sum(one.requests for one in self.found.refused)
        if not self.found.limits and self.found.kind != "key":
            return [f"No limit that is written down in this store counts {self._them()}, and nothing bars it."]
        if not refused:
            return [f"{self.who} works: no limit is used up, and nothing bars it."]
        since = ago(self.found.since, self.now)
        return [f"{self.who} works now. {counted(refused, 'request')} of {since} {_were(refused)} refused or failed."]

    # -- why, and who has spent it ------------------------------------------------------------------------

    def details(self) -> list[str]:
        found = self.found
        said: list[str] = []
        limit = found.limits[0] if found.limits else None
        if limit is not None and found.state in ("exhausted", "nearly"):
            said += self._spenders(limit)
        if found.state in OF_KEYS and found.subject and found.exhausted:
            said.append("Besides, a limit of its subject is used up.")
        said += [sentence for one in found.refused for sentence in self._refused(one)]
        said += [self._ban_elsewhere(ban) for ban in found.bans if ban.caller not in _names(found)]
        matters = found.state in ("exhausted", "nearly") or found.agreement.state == "differ"
        if matters and found.agreement.state != "not compared" and found.ledger not in ("none", "unreadable"):
            said.append(found.agreement.because)
        if found.ledger == "none":
            said.append("No ledger is kept, Keyguard(usage=Usage()): who has asked for what is not known.")
        elif found.ledger == "unreadable":
            said.append("The ledger cannot be read now: who has asked for what is not known.")
        elif found.ledger == "incomplete":
            said.append("The ledger is not whole: a process has vanished, or there was no room for all.")
        said += [f"Not looked at: {one}." for one in found.unseen]
        return said

    def _spenders(self, limit: LimitReport) -> list[str]:
        said = []
        routes, addresses = self.found.routes, self.found.addresses
        if routes and routes[0].name != OTHER:
            said.append(f"{'All of it' if len(routes) == 1 else percent(routes[0].share)} went to {routes[0].name}.")
        if addresses and addresses[0].name != OTHER:
            share = "All" if len(addresses) == 1 else f"{percent(addresses[0].share)} of the"
            said.append(f"{share} requests came from {addresses[0].name}.")
        if limit.refused:
            since = "since" if limit.used_up_at is not None else f"in {ago(self.found.since, self.now)}"
            said.append(f"{counted(limit.refused, 'request')} {_were(limit.refused)} refused {since}.")
        return said

    def _refused(self, one: RefusedFor) -> list[str]:
        requests = f"{counted(one.requests, 'request')} {_were(one.requests)}"
        last = "" if one.last is None else f", the last {clock(one.last, self.now)}"
        names = joined([name for name, _ in one.rules[:4]]) if one.rules else ""
        by = f" ({names})" if names else ""
        if one.cause == "usage":
            return self._limited(one, last)
        if one.cause == "fault":
            why = "because the store, keyguard or the app failed"
            return [f"{requests} answered with an error{last}, {why}{by}: that is not {self._owner()} doing."]
        if one.cause == "upstream":
            why = "because the service's own upstream is used up, neither the key nor its limits"
            return [f"{requests} turned away{by}{last}, {why}."]
        if one.blames == "nobody":
            return [f"{requests} turned away{by}{last}, because there was too much to do: no key is to blame."]
        reasons = {
            "credentials": f"{requests} refused for the key that was sent{by}{last}.",
            "permission": f"{requests} refused because the key is valid and does not reach that far{by}{last}.",
            "address": f"{requests} refused for the address that it came from{by}{last}.",
            "request": f"{requests} refused because it contradicts itself, or can be read in two ways{by}{last}.",
        }
        said = reasons.get(one.cause, f"{requests} refused for {one.cause}{by}{last}.")
        return [said if one.requests == 1 else said.replace("it came", "they came").replace(
            "it contradicts itself, or can", "they contradict themselves, or can")]  # fmt: skip

    def _limited(self, one: RefusedFor, last: str) -> list[str]:
        limits = self.found.limits
        said = limits[0].name if limits and limits[0].refused and self.found.state in ("exhausted", "nearly") else ""
        rules = [(name, count) for name, count in one.rules if name != said]
        count = sum(count for _, count in rules)
        if not count:
            return []  # it is said already
        since = "" if self.found.state == "works" else f"In {ago(self.found.since, self.now)} "
        names = joined([name for name, _ in rules[:4]])
        return [f"{since}{counted(count, 'request')} {_were(count)} refused by {names}{'' if said else last}."]

    def _owner(self) -> str:
        return {"key": "the key's", "address": "the address's"}.get(self.found.kind, "the caller's")

    def _ban_elsewhere(self, ban: BanState) -> str:
        until = ahead(ban.until, self.now)
        return f"The address {ban.caller}, from which it has called, is banned by {ban.guard}: it is let in {until}."


_AT = "at "


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
