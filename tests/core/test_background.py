"""Jobs in the background: one thread for all of a process, a last run at its end, none in a child of a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from keyguard import StoreError
from keyguard.process.background import Job
from keyguard.testing import ManualClock
from tests.support.servers import wait_until

ROOT = Path(__file__).parents[2]
LONG = 3600.0
NAME = "keyguard-background"


class Notes:
    """What was run, and how: `True` for the last time."""

    def __init__(self) -> None:
        self.runs: list[bool] = []
        self.threads: set[str] = set()
        self.then: Callable[[], object] = lambda: None

    def __call__(self, last: bool) -> None:
        self.runs.append(last)
        self.threads.add(threading.current_thread().name)
        self.then()


def threads(name: str = NAME) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


@pytest.fixture
def notes() -> Notes:
    return Notes()


def gone() -> None:
    wait_until(lambda: not threads(), "the thread to end")


@pytest.mark.alone
def test_one_thread_for_all_jobs_which_ends_with_the_last_of_them(notes: Notes) -> None:
    gone()
    one, other = Job("one", notes, 0.01), Job("other", notes, LONG)
    assert not threads()
    one.wake()
    wait_until(lambda: len(notes.runs) > 2, "it to run again and again")
    other.wake()
    other.wake()
    assert [thread.daemon for thread in threads()] == [True]
    assert other.end()
    assert notes.runs.count(True) == 1
    assert threads()
    assert one.end()
    gone()
    assert notes.runs.count(True) == 2
    assert notes.threads == {NAME}


def test_what_is_woken_first_runs_after_its_pause_and_soon_does_not_wait_for_it(notes: Notes) -> None:
    job = Job("one", notes, LONG)
    job.soon()
    wait_until(lambda: notes.runs == [False], "the first run")
    job.soon()
    wait_until(lambda: notes.runs == [False, False], "the second")
    assert job.end()
    assert notes.runs == [False, False, True]


@pytest.mark.alone
def test_two_ends_do_no_harm_and_whoever_wakes_it_begins_it_again(notes: Notes) -> None:
    job = Job("one", notes, LONG)
    assert job.end()
    assert notes.runs == []
    for _ in range(2):
        job.wake()
        assert job.end()
        assert job.end()
    assert notes.runs == [True, True]
    gone()


def test_what_wakes_it_during_its_last_run_is_not_lost(notes: Notes) -> None:
    job = Job("one", notes, LONG)
    job.wake()
    notes.then = job.wake
    assert job.end()
    assert job.begun
    notes.then = lambda: None
    assert job.end()
    assert notes.runs == [True, True]


@pytest.mark.alone
def test_a_job_that_ends_itself(notes: Notes) -> None:
    job = Job("one", notes, LONG)
    notes.then = job.end
    job.soon()
    wait_until(lambda: notes.runs == [False, True], "its end")
    gone()


def test_several_ends_at_once_wait_for_the_same_last_run(notes: Notes) -> None:
    job, running, release = Job("one", notes, LONG), threading.Event(), threading.Event()
    notes.then = lambda: (running.set(), release.wait(30))
    job.wake()
    assert not job.end(0)
    assert running.wait(30)
    assert not job.end(0)
    release.set()
    assert job.end(30)
    assert notes.runs == [True]


def test_a_job_that_fails_is_told_once_goes_on_and_fails_no_other(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Notes()

    def fail() -> None:
        raise StoreError("down\nand out") if len(wrong.runs) < 3 else ValueError("".join(["sec", "ret"]))

    wrong.then = fail
    one, other = Job("one", wrong, 0.005), Job("other", notes, 0.005)
    one.wake()
    other.wake()
    wait_until(lambda: len(wrong.runs) > 4 and len(notes.runs) > 4, "both to go on")
    assert [record.getMessage() for record in caplog.records] == [
        "one failed in the background, and goes on: down\\nand out"
    ]
    wrong.then = lambda: None
    seen = len(wrong.runs)
    wait_until(lambda: len(wrong.runs) > seen + 1, "it to work again")
    wrong.then = fail
    seen = len(wrong.runs)
    wait_until(lambda: len(wrong.runs) > seen + 1, "it to fail again")
    assert one.end()
    assert other.end()
    assert len(caplog.records) == 2
    assert "ValueError" in caplog.records[1].getMessage()
    assert "secret" not in caplog.text


def test_one_that_may_wait_for_others_holds_nobody_up(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    slow, release = Notes(), threading.Event()
    slow.then = lambda: release.wait(30)
    alone, other = Job("webhooks", slow, LONG, alone=True), Job("other", notes, LONG)
    alone.soon()
    wait_until(lambda: slow.runs, "the slow one")
    other.soon()
    wait_until(lambda: notes.runs, "the other")
    assert other.end()
    assert not alone.end(0.01)
    assert "webhooks was not brought to an end within its time" in caplog.text
    release.set()
    assert alone.end(30)
    assert slow.threads == {"keyguard-webhooks"}
    wait_until(lambda: not threads("keyguard-webhooks"), "its thread to end")


@pytest.mark.alone
def test_by_a_clock_that_is_set_by_hand_it_runs_in_place_when_it_is_due(notes: Notes) -> None:
    clock = ManualClock()
    gone()
    job = Job("one", notes, 10.0, clock=clock)
    clock.advance(60)
    assert notes.runs == []
    job.wake()
    clock.advance(9)
    assert notes.runs == []
    clock.advance(1)
    assert notes.runs == [False]
    clock.advance("1 day")
    assert notes.runs == [False] * 2
    clock.advance(-86400)
    clock.advance(9.9)
    job.run_due()
    assert notes.runs == [False] * 2
    clock.advance(0.1)
    assert notes.runs == [False] * 3
    job.soon()
    job.run_due()
    assert notes.runs == [False] * 4
    assert job.end()
    assert job.end()
    clock.advance("1 day")
    assert notes.runs == [*[False] * 4, True]
    assert notes.threads == {"MainThread"}
    assert not threads()


def test_a_clock_keeps_no_job_alive(notes: Notes) -> None:
    clock = ManualClock()
    Job("one", notes, 10.0, clock=clock).wake()
    clock.advance("1 hour")
    assert notes.runs == []


def test_where_there_is_no_room_for_a_thread_it_is_tried_again_and_its_end_runs_in_place(
    notes: Notes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job("one", notes, LONG, alone=True)  # others may have the shared thread run

    def full(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr("keyguard.process.background.run_aside", full)
        for _ in range(3):
            job.wake()
            assert not job.begun
    assert [record.getMessage() for record in caplog.records] == [
        "keyguard-one has no thread, and is tried again: can't start new thread"
    ]
    assert job.end()
    assert notes.runs == [True]
    assert notes.threads == {"MainThread"}
    wait_until(lambda: job.wake() or job.begun, "a thread")  # after a second
    assert job.end()


@pytest.mark.alone
def test_a_child_has_no_job_that_is_woken_and_begins_its_own(notes: Notes) -> None:
    job = Job("one", notes, LONG)
    job.soon()
    wait_until(lambda: notes.runs == [False], "the first run")
    pid = os.fork()
    if pid == 0:
        ok = False
        try:
            ok = not job.begun and job.end() and notes.runs == [False]
            job.wake()
            ok = ok and job.begun and job.end(30) and notes.runs == [False, True]
        finally:
            os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert job.begun
    assert job.end()
    assert notes.runs == [False, True]


EXIT = """
import sys, threading, time
from keyguard.process.background import Job, time_left
from keyguard.stores.sqlite import SQLiteStore

def run(last):
    print("last" if last else "run", threading.current_thread().name, flush=True)

def hang(last):
    time.sleep(600)

def after(last):
    again = Job("late", run, 1.0)
    again.wake()
    print(again.begun, time_left() <= 5, flush=True)

jobs = [Job("one", run, 3600.0), Job("never", run, 1.0), Job("after", after, 3600.0)]
jobs[0].wake()
jobs[2].wake()
if sys.argv[1] == "hangs":
    jobs += [Job("hangs", hang, 3600.0, alone=True)]
    jobs[-1].wake()
    began = time.monotonic()
    import atexit
    from keyguard.process import background
    background.PATIENCE = 0.2
print(time_left(), flush=True)
"""


@pytest.mark.parametrize("how", ["", "hangs"])
def test_the_end_of_a_process_has_each_run_a_last_time_and_waits_for_none_that_hangs(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT, how], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.splitlines() == ["inf", "last keyguard-background", "False True"], done.stderr
    assert ("hangs was not brought to an end within its time" in done.stderr) == (how == "hangs")
