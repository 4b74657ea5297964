"""What would have a caller admitted: sentences that name a command, with the names that it takes."""

from __future__ import annotations

import shlex

from keyguard.why.diagnosis import OF_KEYS, Diagnosis, LimitReport, RefusedFor
from keyguard.why.words import clock


def advice_for(found: Diagnosis) -> list[str]:
    """Return what helps a caller whose state is known."""
    return _Advice(found).all()


class _Advice:
    """The advice for one caller."""

    def __init__(self, found: Diagnosis) -> None:
        self.found = found
        self.now = found.at

    def all(self) -> list[str]:
        found = self.found
        said: list[str] = []
        key = found.key
        if key is not None and found.state in OF_KEYS:
            said += self._for_key(key.id, key.status, key.replaced_by, key.owner)
        for ban in found.bans:
            said.append(f"Let it in now: {_command('bans', 'lift', ban.caller)}.")
        if found.state == "exhausted":
            said += self._for_limit(next(limit for limit in found.limits if limit.exhausted))
        for one in found.refused:
            if one.cause == "usage" and found.state not in ("exhausted", *OF_KEYS):
                said.append("Spread the requests, or admit more: the limit was used up only for a while.")
            elif one.cause == "permission" and found.state not in OF_KEYS:
                said += self._for_permission(one)
            elif one.cause == "request":
                said.append("The client has to send another request: one key, and a path that can be read in one way.")
            elif one.cause == "address" and not found.bans:
                said += self._for_address(one)
            elif one.cause == "fault":
                said.append("Look at the store, keyguard store check, and at the app's log of that time.")
            elif one.cause == "overload":
                said.append("Nothing of the key helps: the app needs more processes, or less work for each request.")
            elif one.cause == "upstream":
                said.append("Nothing of the key helps: look at the app's own keys for the services that it calls.")
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


def _command(*words: str) -> str:
    return shlex.join(["keyguard", *words])
