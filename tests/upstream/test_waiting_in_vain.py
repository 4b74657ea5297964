"""Who stands in line behind one that found no room in time does not ask again for what is known."""

from __future__ import annotations

from keyguard.ops.upstream import Acquire
from keyguard.upstream.answers import Asked
from keyguard.upstream.causes import UpstreamCause
from tests.support.virtual_upstream import World, keys


def test_what_the_first_was_told_in_vain_holds_for_those_behind_it() -> None:
    world = World(keys("a"), limits={"a": {"rpm": 1}})
    world.ask()
    patient, one, other = (world.begin(Asked(max_wait=wait)) for wait in (100, 70, 70))
    world.run()
    assert patient.result.outcome.cause == UpstreamCause.OK
    assert {task.result.outcome.cause for task in (one, other)} == {UpstreamCause.EXHAUSTED}
    asked = [op for op in world.ops if isinstance(op, Acquire)]
    assert len(asked) == 4, "the first request, the patient one twice, and one of those behind it"
