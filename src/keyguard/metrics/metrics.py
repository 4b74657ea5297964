"""`Metrics`: what a stack counts, for Prometheus and for OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from keyguard.errors import ConfigurationError, StoreError
from keyguard.metrics.process import ProcessCounts
from keyguard.metrics.series import Numbers, Series, Totals, series_of
from keyguard.process.event_loops import in_thread

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from keyguard.metrics.apps import ASGIMetrics, WSGIMetrics
    from keyguard.metrics.exposition import Rendered


class Shared(Protocol):
    """Where the processes of a host keep their totals together: the ledger of usage."""

    def read(self) -> Mapping[str, int]:
        """Return the totals of this host by the names of series. Raises `StoreError`."""
        ...

    async def aread(self) -> Mapping[str, int]:
        """Do the same in an event loop."""
        ...


class Metrics:
    """The metrics of a stack, as `Keyguard.metrics` returns them.

    `asgi` and `wsgi` are apps that show them to Prometheus, on every path and without a log-in: no key and no holder of
    one stands in them. With `Keyguard(usage=Usage())` any process of a host shows what all of them have counted, and
    goes on with it after a restart; else each shows its own. Objects of this class are collectors as well, for
    `prometheus_client.REGISTRY.register`.
    """

    def __init__(
        self,
        counts: ProcessCounts,
        up: Callable[[], Mapping[str, bool]],
        shared: Shared | None = None,
        known: Iterable[Series] = (),
        numbers: Callable[[], Numbers] | None = None,
    ) -> None:
        """`known` are shown before anything has been counted: what appears with a 1 has not risen for Prometheus.

        `numbers` are asked for whenever somebody looks, and may have a store asked.
        """
        self._counts = counts
        self._up = up
        self._shared = shared
        self._numbers = numbers
        self._known: dict[Series, int] = dict.fromkeys(known, 0)
        self._instrumented = False

    def __repr__(self) -> str:
        return f"<Metrics of {'a host' if self._shared is not None else 'this process'}>"

    @cached_property
    def asgi(self) -> ASGIMetrics:
        """Return an ASGI app that shows the metrics."""
        _library()
        from keyguard.metrics.apps import ASGIMetrics

        return ASGIMetrics(self)

    @cached_property
    def wsgi(self) -> WSGIMetrics:
        """Return a WSGI app that shows the metrics."""
        _library()
        from keyguard.metrics.apps import WSGIMetrics

        return WSGIMetrics(self)

    def render(self, accept: str = "") -> Rendered:
        """Return the metrics as text, `body` and `content_type`, for a view of your own. `accept` is the request's."""
        _library()
        from keyguard.metrics.exposition import render

        return render(self.collect(), accept)

    async def arender(self, accept: str = "") -> Rendered:
        """Do the same in an event loop, which does not wait while a long text is made."""
        _library()
        from keyguard.metrics.exposition import render

        totals = await self._aread()
        return await in_thread(lambda: render(self._families(totals), accept))

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as families of `prometheus_client`."""
        _library()
        return self._families(self._read())

    def _families(self, totals: Totals | None) -> Iterable[Metric]:
        from keyguard.metrics.exposition import families_of

        up = dict(self._up())
        if self._shared is not None:
            up["usage"] = totals is not None
        numbers = {} if self._numbers is None else self._numbers()
        return list(families_of(None if totals is None else {**self._known, **totals}, up, numbers))

    def _read(self) -> Totals | None:
        """Return the totals that are shown; `None` if they cannot be read."""
        if self._shared is None:
            return self._counts.totals()
        try:
            return series_of(self._shared.read().items())
        except StoreError:
            return None

    async def _aread(self) -> Totals | None:
        if self._shared is None:
            return self._counts.totals()
        try:
            return series_of((await self._shared.aread()).items())
        except StoreError:
            return None

    def instrument(self, meter_provider: Any = None) -> None:
        """Show the counts of this process to OpenTelemetry, by `opentelemetry-api`.

        `meter_provider`: whose meter it is; by default the global one, also if that is set later.
        """
        try:
            from opentelemetry.metrics import get_meter
        except ImportError as error:
            raise ConfigurationError(
                f"OpenTelemetry needs a library ({error}): pip install 'keyguard[opentelemetry]'"
            ) from error
        from keyguard.metrics.instruments import instrument

        if not self._instrumented:
            self._instrumented = True
            instrument(
                get_meter("keyguard", meter_provider=meter_provider),
                self._counts.totals,
                lambda: dict(self._up()),
                self._numbers,
            )


def _library() -> None:
    """Raise `ConfigurationError` if the library for Prometheus is not there."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"metrics need a library ({error}): pip install 'keyguard[prometheus]'") from error
