"""The verdict on a caller: its state, and the sentences that tell it. Pure: a diagnosis without words goes in.

Rules:
- First what bars the key itself, then what bars its caller, then limits; the worst is said first, the rest after it.
- A fault or an overload is never blamed on the caller, and each sentence about one says so.
- Advice names a command that helps, with the names that it takes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from keyguard.why.diagnosis import BanState, Diagnosis, Level, LimitReport, RefusedFor, State
from keyguard.why.spending import OTHER
from keyguard.why.words import ago, ahead, clock, counted, joined, limit_words, number, percent, span

NEARLY = 0.8
"""The share of a limit of an hour or more from which on it is nearly used up."""
_LONG = timedelta(hours=1)
_OF_KEYS: tuple[State, ...] = ("revoked", "expired", "replaced", "disabled", "pending", "unknown")
_LEVELS: dict[State, Level] = {"works": "good", "unused": "good", "nearly": "warning", "pending": "warning"}


def judged(found: Diagnosis) -> Diagnosis:
    """Return a diagnosis with its state and its sentences."""
    state = _state(found)
    found = replace(found, state=state, level=_LEVELS.get(state, "bad"))
    headline, details, advice = _Sentences(found).all()
    return replace(found, headline=tuple(headline), details=tuple(details), advice=tuple(advice))


def _state(found: Diagnosis) -> State:
    status = found.key.status if found.key is not None else "active"
    for state in _OF_KEYS:
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
        return self.headline(), self.details(), self.advice()

    # -- what is the matter -------------------------------------------------------------------------------

    def headline(self) -> list[str]:
        state = self.found.state
        if state in _OF_KEYS:
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
        if found.state in _OF_KEYS and found.subject and found.exhausted:
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
            limits = self.found.limits
            if limits and self.found.state == "exhausted" and {name for name, _ in one.rules} == {limits[0].name}:
                return []  # it is said already
            return [f"{requests} refused by {names or 'a limit'}{last}."]
        if one.cause == "fault":
            why = "because the store, keyguard or the app failed"
            return [f"{requests} answered with an error{last}, {why}{by}: that is not {self._owner()} doing."]
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

    def _owner(self) -> str:
        return {"key": "the key's", "address": "the address's"}.get(self.found.kind, "the caller's")

    def _ban_elsewhere(self, ban: BanState) -> str:
        until = ahead(ban.until, self.now)
        return f"The address {ban.caller}, from which it has called, is banned by {ban.guard}: it is let in {until}."

    # -- what would have admitted it ----------------------------------------------------------------------

    def advice(self) -> list[str]:
        found, said = self.found, []
        key = found.key
        if key is not None and found.state in _OF_KEYS:
            said += self._for_key(key.id, key.status, key.replaced_by, key.owner)
        for ban in found.bans:
            said.append(f"Let it in now: {_command('bans', 'lift', ban.caller)}.")
        if found.state == "exhausted":
            said += self._for_limit(next(limit for limit in found.limits if limit.exhausted))
        for one in found.refused:
            if one.cause == "usage" and found.state not in ("exhausted", *_OF_KEYS):
                said.append("Spread the requests, or admit more: the limit was used up only for a while.")
            elif one.cause == "permission" and found.state not in _OF_KEYS:
                said += self._for_permission(one)
            elif one.cause == "request":
                said.append("The client has to send another request: one key, and a path that can be read in one way.")
            elif one.cause == "address" and not found.bans:
                said += self._for_address(one)
            elif one.cause == "fault":
                said.append("Look at the store, keyguard store check, and at the app's log of that time.")
            elif one.cause == "overload":
                said.append("Nothing of the key helps: the app needs more processes, or less work for each request.")
        if found.agreement.false_exhaustion and found.agreement.ledger is not None:
            told = str(max(0, found.agreement.ledger))
            command = _command("limits", "set", self._counted_as(), told, "--limit", found.agreement.limit)
            said.append(f"If the ledger is right, set the counter right: {command}.")
        return list(dict.fromkeys(said))

    def _counted_as(self) -> str:
        return self.found.limits[0].caller if self.found.limits else self.found.caller

    def _for_key(self, id: str, status: str, replaced_by: str | None, owner: str) -> list[str]:
        if status == "disabled":
            return [f"Let it work again: {_command('keys', 'enable', id)}."]
        if status == "expired":
            return [f"Let it work on: {_command('keys', 'update', id, '--expires', '30d')}."]
        if status == "replaced":
            return [f"The client has to use its successor, {replaced_by}."]
        if status == "pending":
            return [f"The client has to wait, or gets another key: {_command('keys', 'issue', '--owner', owner)}."]
        if status == "revoked":
            return [f"The client needs a new key: {_command('keys', 'issue', '--owner', owner)}."]
        return ["Compare the id with that of the client's key, and the store with the app's: keyguard keys list."]

    def _for_limit(self, limit: LimitReport) -> list[str]:
        if limit.kind == "slots":
            return ["Send fewer requests at a time, or admit more at a time."]
        said = [] if limit.works_at is None else [f"Wait: it works again {clock(limit.works_at, self.now, up=True)}."]
        units = str(max(1, limit.limit // 10))
        grant = _command("limits", "grant", limit.caller, units, "--limit", limit.name)
        return [*said, f"Let it go on now: {grant}."]

    def _key_id(self) -> str:
        if self.found.key is not None:
            return self.found.key.id
        return self.found.keys[0].id if self.found.keys else "ID"

    def _for_address(self, one: RefusedFor) -> list[str]:
        names = {name for name, _ in one.rules}
        said = []
        if "key-network" in names:
            command = _command("keys", "update", self._key_id(), "--network", "NETWORK")
            said.append(f"Let the key be used from there: {command}.")
        if names - {"key-network"}:
            said.append("See which addresses the stack's IPFilter lets in.")
        return said

    def _for_permission(self, one: RefusedFor) -> list[str]:
        key = self.found.key
        id = self._key_id()
        scopes = key.scopes if key is not None else ()
        has = "" if key is None else f" (it has {', '.join(scopes) or 'none'})"
        command = _command("keys", "update", id, "--scope", ",".join([*scopes, "SCOPE"]))
        return [f"Give it the scope that the route asks for{has}: {command}."]


_AT = "at "


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _command(*words: str) -> str:
    return shlex.join(["keyguard", *words])
