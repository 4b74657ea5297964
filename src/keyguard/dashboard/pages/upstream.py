"""The app's own keys at providers: which are left alone, why, until when; and one form that has a key tried again."""

from __future__ import annotations

from keyguard.audit import writing
from keyguard.dashboard.answers import Elsewhere, Outcome, Shown
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import Limit, Notice, Upstream, UpstreamKey, UpstreamPool
from keyguard.errors import ConfigurationError, StoreError
from keyguard.upstream.enabling import record_of
from keyguard.upstream.snapshot import DimensionSnapshot, GroupSnapshot, KeySnapshot, PoolSnapshot

_MOST = 200
_DONE = "enabled"


def upstream(reading: Reading, failed: str = "") -> Outcome:
    """Show the pools."""
    reading.look_around()
    pools = reading.service.pools
    if not pools:
        return reading.problem(404, "not-found")
    done = Notice("done", text=_DONE) if reading.asked.query.get("done") == _DONE else None
    shell = reading.shell("upstream", done=Notice("failed", text=failed) if failed else done)
    return Shown(Upstream(shell, tuple([_pool(pool.snapshot()) for pool in pools])))


def enable(reading: Reading) -> Outcome:
    """Have a key tried again at once."""
    form = reading.asked.form
    pool = next((pool for pool in reading.service.pools if pool.name == form.get("pool")), None)
    if pool is None:
        return reading.problem(404, "not-found")
    reading.ping()  # first: what cannot be noted in the audit log is not changed
    before = pool.snapshot()
    try:
        pool.enable(form.get("key", ""))
    except ConfigurationError:
        return reading.problem(404, "no-such-key")
    except StoreError:
        outcome = upstream(reading, failed="The store of this pool is out of order. Nothing was changed.")
        assert isinstance(outcome, Shown)
        return outcome._replace(status=503)
    reading.service.store.execute([writing(record_of(before, form["key"], reading.actor))])
    return Elsewhere(reading.href("upstream", done=_DONE))


def _pool(found: PoolSnapshot) -> UpstreamPool:
    keys = [_key(found, group, key) for group in found.groups for key in group.keys]
    limits = [_limit(found, group, one) for group in found.groups for one in group.dimensions]
    return UpstreamPool(found.name, tuple(keys[:_MOST]), tuple(limits[:_MOST]), found.waiting, found.store_ok)


def _key(pool: PoolSnapshot, group: GroupSnapshot, key: KeySnapshot) -> UpstreamKey:
    own = key.state != "ok"
    return UpstreamKey(
        id=key.id,
        group=group.name,
        models=_models(pool, group),
        state=key.state if own else str(group.cause),
        until=key.until if own else group.until,
    )


def _limit(pool: PoolSnapshot, group: GroupSnapshot, one: DimensionSnapshot) -> Limit:
    return Limit(
        name=f"{one.name} (learnt)" if one.learnt else one.name,
        kind="window",
        limit=one.limit,
        period=None,
        used=one.limit - one.remaining,
        back_at=one.resets_at if one.remaining <= 0 else None,
        paths=_models(pool, group),
        key=group.name,
    )


def _models(pool: PoolSnapshot, group: GroupSnapshot) -> str:
    classes = {one.model_class for one in pool.groups}
    return group.model_class if len(classes) > 1 else ""
