"""Servers that many tests share, started when the first one asks."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from keyguard.drivers import faults
from tests.support.jobs import forget_jobs
from tests.support.servers import Postgres, RedisCluster, RedisServer, shared
from tests.support.threads import Begun
from tests.support.warm import warm as warm_process

WARM = "TESTS_WARM_SOCKET"

# Before tests are imported, which take their settings from it. How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "at any load", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("at any load")


# Hundreds of interpreters are started in a run, and as many workers collect all tests: where compiled code is kept
# nowhere, each would compile all of it anew, which is a third of the whole work.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure() -> None:
    """Have the first refusal of this process tell nothing: which test it falls into is chance."""
    faults._told_in = os.getpid()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have each worker go through one stretch of the tests, and take over from others what is left at the end.

    By default the last tests are dealt out one by one: each worker would start the servers that those of a file share.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Start what begins programs for the tests of all workers: each library is imported once."""
    opened = contextlib.ExitStack()
    config.add_cleanup(opened.close)
    os.environ[WARM] = opened.enter_context(warm_process())
    opened.callback(os.environ.pop, WARM)


def pytest_collection(session: pytest.Session) -> None:
    """Have each worker begin with other modules, if all are collected: what one has compiled the others find.

    Else each would compile all of them, with what pytest makes of `assert`: after a checkout that is half of the work.
    """
    tests = Path(__file__).parent
    worker: dict[str, Any] | None = getattr(session.config, "workerinput", None)
    if worker is None or [*map(os.path.abspath, session.config.args)] != [str(tests)]:
        return
    files = sorted(tests.rglob("test_*.py"))
    for file in files[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        with warnings.catch_warnings(), contextlib.suppress(Exception, pytest.skip.Exception):
            warnings.simplefilter("error")
            importlib.import_module(".".join(file.relative_to(tests.parent).with_suffix("").parts))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a test whose name is another one in each process: they could not share the work."""
    if " at 0x" in item.nodeid:
        raise pytest.UsageError(f"{item.nodeid} has an address in its name: give its cases ids")


def pytest_collection_finish() -> None:
    """Keep modules and thousands of tests out of what is searched for garbage: a second for each search adds up."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Keep what a module has left for good out of that, too: what its tests imported, above all.

    A search takes a tenth of a second else, and stacks whose limits could clash ask for one. Between modules no test is
    under way whose objects could become garbage later. What runs in the background ends there as well.
    """
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        forget_jobs()
        gc.collect()
        gc.freeze()
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin each test with the levels of logs that Python has: libraries that other tests load set up theirs."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("keyguard").setLevel(logging.NOTSET)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked `alone` in a process of its own, in which there is one thread.

    A fork in C is for processes in which nothing else goes on: a lock of Python's own that another thread held would be
    held for ever in the child. The threads of other tests take such locks at any time. A fork that Python makes itself
    leaves those threads behind, and no lock held.
    """
    if pyfuncitem.get_closest_marker("alone") is None:
        return None
    with tempfile.TemporaryFile("w+") as told:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there may be threads
            child = os.fork()
        if child == 0:
            code = 1
            try:
                test = pyfuncitem.obj
                test(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames})
                code = 0
            except BaseException:
                traceback.print_exc(file=told)
                told.flush()
            finally:
                os._exit(code)
        ended = 0
        try:
            ended, status = os.waitpid(child, 0)
        finally:
            if not ended:  # the time that a test has is over
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        told.seek(0)
        assert status == 0, told.read()
    return True


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    """The threads of this test alone."""
    return Begun(monkeypatch)


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    yield from shared(RedisServer)


@pytest.fixture(scope="session")
def redis6() -> Iterator[RedisServer]:
    yield from shared(lambda: RedisServer("redis6"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[RedisCluster]:
    yield from shared(RedisCluster)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    yield from shared(Postgres)


@pytest.fixture(scope="session")
def warm() -> Iterator[str]:
    """The socket of a process that begins programs of Python at once: one for all workers."""
    if WARM in os.environ:
        yield os.environ[WARM]
        return
    with warm_process() as server:
        yield server
