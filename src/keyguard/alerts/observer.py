"""`Alerts`: the setting of a stack that has people told of what they should know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from keyguard.alerts.messages import TEST, AlertMessage, message_of
from keyguard.alerts.quiet import quiet_hours
from keyguard.alerts.receivers import AlertReceiver, Receiver, receivers_from
from keyguard.alerts.thresholds import Thresholds, checked_levels
from keyguard.clock import Clock, wall_clock
from keyguard.errors import ConfigurationError
from keyguard.process.tokens import new_token

if TYPE_CHECKING:
    from keyguard.alerts.book import Alert
    from keyguard.alerts.watch import Watch
    from keyguard.observer import Observed, Sink


class Alerts:
    """Tells people when callers come near their limits, and when something is wrong: `Keyguard(..., alerts=Alerts())`.

        Alerts(at=(80, 100), to=[Webhook("https://example.com/alerts", os.environ["ALERTS_SECRET"])])

    - `at`: thresholds of limits, in per cent. A jump over several of them is told once, of the highest.
    - `to`: receivers: a `Webhook`, `slack(url)`, `notify("mailto://...")`, a plain function that is called with an
      `AlertMessage`. Each alert is a line in the log as well, of the logger `keyguard.alerts`.
    - `quiet`: hours in which all waits but what stops the service: `"22:00-07:00 Europe/Berlin"`. That is a store that
      is out of order, overload, and a pool of upstream keys that gives requests up.
    - `limits`: the names of the limits, or of their guards, whose use is told. By default quotas, credits, and rates
      over an hour or more, of callers that are not told apart by address alone.
    - `forecast`: whether to tell that a caller will have spent a quota before it begins anew; for quotas of a day or
      more, with `usage=Usage()`.
    - `anomaly`: whether to tell of far more requests in a minute than usual; with `usage=Usage()`.

    Requests wait for none of it. Raises `ConfigurationError` for a setting that is wrong.
    """

    def __init__(
        self,
        *,
        at: Iterable[int] = (50, 80, 90, 100),
        to: Iterable[AlertReceiver] = (),
        quiet: str | None = None,
        limits: Iterable[str] | None = None,
        forecast: bool = True,
        anomaly: bool = True,
    ) -> None:
        self.at = checked_levels(at)
        self.receivers: list[Receiver] = receivers_from(to)
        self._is_quiet = quiet_hours(quiet)
        if isinstance(limits, str):
            raise ConfigurationError(f"limits is a list of names, such as [{limits!r:.80}]")
        self._limits = None if limits is None else [*limits]
        for word, value in (("forecast", forecast), ("anomaly", anomaly)):
            if not isinstance(value, bool):
                raise ConfigurationError(f"{word} is True or False, not {value!r:.80}")
        self._forecasts, self._anomalies = forecast, anomaly
        self._watches: list[Watch] = []

    def __repr__(self) -> str:
        return f"Alerts(at={self.at}, to={self.receivers})"

    def attach(self, stack: Observed) -> Sink | None:
        """Watch over a stack; return what is told of each request."""
        from keyguard.alerts.watch import Watch, ledger_of

        watch = Watch(
            stack,
            Thresholds(self.at, self._limits, stack.facts),
            self.receivers,
            self._is_quiet,
            ledger_of(stack.before),
            forecasts=self._forecasts,
            anomalies=self._anomalies,
        )
        self._watches.append(watch)
        return watch.sink()

    def begin(self) -> None:
        """Begin, in this process."""
        for watch in self._watches:
            watch.begin()

    def close(self) -> None:
        """Decide what is left to decide, and deliver what can be delivered within a few seconds."""
        for watch in self._watches:
            watch.close()

    @property
    def counts(self) -> Mapping[str, int]:
        """The alerts that this process has decided since its start, by type."""
        found: dict[str, int] = {}
        for watch in self._watches:
            for type, count in watch.board.counts.items():
                found[type] = found.get(type, 0) + count
        return found

    def of_process(self) -> list[Alert]:
        """Return the alerts that this process has decided alone, while its store was out of order."""
        return [alert for watch in self._watches for alert in watch.board.of_process()]

    def test(self, clock: Clock = wall_clock) -> list[tuple[str, str]]:
        """Send a message to each receiver, now; return what went wrong, with an empty text for nothing."""
        return [(one.name, _tried(one, _test_message(clock()))) for one in self.receivers]


def _test_message(now: int) -> AlertMessage:
    number = new_token().hex()
    told = {"type": TEST, "severity": "warning", "subject": "", "limit": "", "facts": {}, "level": 0}
    return message_of({**told, "id": f"msg_{number}", "alert": TEST, "since": now, "at": now})


def _tried(receiver: Receiver, message: AlertMessage) -> str:
    from keyguard.alerts.posting import Failed
    from keyguard.alerts.receivers import Gone

    try:
        receiver.deliver(message)
    except (Failed, Gone) as error:
        return str(error)
    except Exception as error:
        return f"it raised {type(error).__name__}"
    return ""
