"""Alerts: how often the forecast is right, and what alerts cost.

    python -m benchmarks.alerts
    python -m benchmarks.alerts --trace water-flow.csv        # lines of a moment and a number, an hour each

The forecast is asked at 06, 10, 14 and 18 h of generated days: will this caller use up the quota before midnight? Its
answer is compared with what the day did. Callers are of many kinds (offices, evenings, around the clock, one batch
a night), their days differ in how busy they are and have their ups and downs, and the quota is such that some half of
all days use it up. Beside it stand Holt's method and a mean that forgets (EWMA) on the hours of the day.

The cost of a record is that of what is called on the request, and that of the look in the background, each for one
request with one limit; the operations are those of a store in memory. Wall time of a shared machine: read it as ratios.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from math import exp, log
from pathlib import Path

from keyguard import Alerts, APIKeys, Decision, Keyguard, RateLimit, quota
from keyguard.alerts.forecast import HOUR, forecast, foreseen
from keyguard.ops import Demand, FireAlert, LeaseDeliveries, Take
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock

HOURS = (6, 10, 14, 18)
DAYS = 8
Day = list[int]


# -- generated days -----------------------------------------------------------------------------------------------


def shape(chance: random.Random) -> list[float]:
    """How a caller's day goes, by its hours."""
    kind = chance.choice(["office", "evening", "always", "batch", "two peaks"])
    if kind == "office":
        return [0.1 if hour < 7 or hour > 19 else 1.0 + chance.random() for hour in range(24)]
    if kind == "evening":
        return [0.2 + max(0.0, 1 - abs(hour - 20) / 5) for hour in range(24)]
    if kind == "always":
        return [1.0 + 0.2 * chance.random() for _ in range(24)]
    if kind == "batch":
        at = chance.randrange(24)
        return [0.1 + (6.0 if hour in (at, (at + 1) % 24) else 0.0) for hour in range(24)]
    return [0.1 + max(0.0, 1 - abs(hour - 9) / 2) + max(0.0, 1 - abs(hour - 15) / 3) for hour in range(24)]


def poisson(chance: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(chance.gauss(mean, mean**0.5)))
    product, count, least = chance.random(), 0, exp(-mean)
    while product > least:
        product *= chance.random()
        count += 1
    return count


def days_of(chance: random.Random) -> list[Day]:
    """Days of one caller, the last of which is asked about."""
    form, busy = shape(chance), exp(chance.uniform(log(50), log(20_000)))
    total = sum(form)
    days = []
    for _ in range(DAYS):
        scale = exp(chance.gauss(0, 0.25))
        days.append([poisson(chance, busy * scale * part / total * exp(chance.gauss(0, 0.2))) for part in form])
    return days


def of_trace(file: Path) -> Iterator[list[Day]]:
    """Days of a real trace: each eight that follow each other."""
    hours: dict[tuple[str, int], float] = {}
    for row in csv.reader(file.open()):
        try:
            at, value = datetime.fromisoformat(row[0]), float(row[1])
        except (ValueError, IndexError):
            continue
        hours[at.date().isoformat(), at.hour] = value
    dates = sorted({day for day, _ in hours})
    whole = {day: [round(hours[day, hour] * 10) for hour in range(24)] for day in dates if _is_whole(hours, day)}
    for first in range(len(dates) - DAYS + 1):
        span = dates[first : first + DAYS]
        if all(day in whole for day in span):
            yield [whole[day] for day in span]


def _is_whole(hours: dict[tuple[str, int], float], day: str) -> bool:
    return all((day, hour) in hours for hour in range(24))


# -- methods ------------------------------------------------------------------------------------------------------


def by_forecast(
    days: Sequence[Day], hour: int, limit: int, *, history: bool = True, silent: bool = False
) -> bool | None:
    """Ask keyguard's own: with the days before it goes by the profile, without them by the trend (Holt)."""
    hours = {day * 24 + each: float(units) for day, one in enumerate(days) for each, units in enumerate(one)}
    begin = (len(days) - 1) * 24
    known = {number: units for number, units in hours.items() if number < begin + hour}
    if not history:
        known = {number: units for number, units in known.items() if number >= begin}
    period = {"begin": begin * HOUR, "end": (begin + 24) * HOUR, "now": (begin + hour) * HOUR}
    found = (forecast if silent else foreseen)(known, used=sum(days[-1][:hour]), quota=limit, **period)
    return None if found is None else found.likely is not None


def by_ewma(days: Sequence[Day], hour: int, limit: int) -> bool:
    level = float(days[-1][0])
    for units in days[-1][1:hour]:
        level += 0.3 * (units - level)
    return sum(days[-1][:hour]) + level * (24 - hour) >= limit


def table(cases: Sequence[list[Day]], chance: random.Random) -> None:
    names = ("mean hourly profile", "Holt", "EWMA", "profile, as it is told")
    print(f"{'share of right answers':42}" + "".join(f"{hour:>5} h" for hour in HOURS))
    print("(as it is told: not while less than a quarter is spent)")
    right = {name: [[0, 0] for _ in HOURS] for name in names}
    for days in cases:
        totals = [log(max(1, sum(day))) for day in days]
        usual, spread = statistics.fmean(totals[:-1]), statistics.stdev(totals)
        limit = max(4, round(exp(chance.gauss(usual, spread))))
        truth = sum(days[-1]) >= limit
        for place, hour in enumerate(HOURS):
            if sum(days[-1][:hour]) >= limit:
                continue  # there is nothing to foresee
            told = by_forecast(days, hour, limit, silent=True)
            answers = {
                "mean hourly profile": bool(by_forecast(days, hour, limit)),
                "Holt": bool(by_forecast(days, hour, limit, history=False)),
                "EWMA": by_ewma(days, hour, limit),
            }
            if told is not None:
                answers["profile, as it is told"] = told
            for name, answer in answers.items():
                right[name][place][0] += answer is truth
                right[name][place][1] += 1
    for name in names:
        shares = "".join(f"{100 * good / max(1, all):6.0f}%" for good, all in right[name])
        print(f"{name:42}{shares}   of {' '.join(str(all) for _, all in right[name])}")


# -- cost ---------------------------------------------------------------------------------------------------------


def cost() -> None:
    clock = ManualClock()
    alerts = Alerts(to=[lambda message: None])
    limit = quota("1000000/day")
    guard = Keyguard(
        APIKeys(), RateLimit(limit, by="subject"), store="memory://", clock=clock, alerts=alerts, handlers=False
    )
    watch = alerts._watches[0]
    hear, prefix = watch.sink(), guard._note.facts[-1].prefix
    store = MemoryStore(clock=clock)
    records = []
    for number in range(4000):
        demand = Demand("subject:1000000/day", f"{prefix}tenant {number % 500}", limit)
        taken = store.execute([Take([demand])])[0]
        told = ("id", "", f"tenant {number % 500}", "k", "198.51.100.1", "GET", "/", "served", None, "", 200, ())
        records.append(Decision(clock(), *told, (taken,), 0.001))  # type: ignore[arg-type]

    def best(run: object, number: int) -> float:
        times = []
        for _ in range(9):
            begin = time.perf_counter()
            run()  # type: ignore[operator]
            times.append(time.perf_counter() - begin)
        return min(times) / number * 1e6

    def nothing() -> None:
        for record in records:
            silent(record)

    def noting() -> None:
        for record in records:
            hear(record)

    def silent(record: Decision) -> None:
        pass

    empty = best(nothing, len(records))
    print(f"\n{'microseconds a request':42}")
    print(f"{'on the request':42}{best(noting, len(records)) - empty:7.3f}")

    def look() -> None:
        noting()
        watch.look(False)

    print(f"{'in the background':42}{best(look, len(records)) - empty:7.3f}")
    for many in (0, 20, 500):
        board = MemoryStore(clock=clock)
        about = {"type": "keyguard.limit.threshold", "severity": "warning", "subject": "a tenant", "limit": "day"}
        for number in range(many):
            board.execute([FireAlert(f"alert {number}", 80, "1", about={**about, "facts": {"used": 80}}, to=["hook"])])
        lease = LeaseDeliveries("me", 1, ["another"])
        spent = best(lambda board=board, lease=lease: board.execute([lease]), 1)
        size = len(board.scan("alert|")[0][1]) if many else 0
        print(f"{f'asking for deliveries, {many} alerts open':42}{spent:7.0f}   {size:,} bytes")
    guard.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--callers", type=int, default=3000)
    parser.add_argument("--trace", type=Path)
    options = parser.parse_args()
    chance = random.Random(1)
    if options.trace is not None:
        cases = [days for days in of_trace(options.trace) for _ in range(20)]
        print(f"a trace, {len(cases) // 20} days, each with 20 quotas")
    else:
        cases = [days_of(chance) for _ in range(options.callers)]
        print(f"generated days of {len(cases)} callers")
    table(cases, chance)
    if options.trace is None:
        cost()


if __name__ == "__main__":
    main()
