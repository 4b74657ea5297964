"""The board for Grafana: each of its expressions asks for what `/metrics` shows."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keyguard import Keyguard, RateLimit, ResponseCache
from keyguard.cli import main
from keyguard.metrics.series import ALERTS
from keyguard.testing import play

FUNCTIONS = {"sum", "min", "rate", "increase", "topk", "histogram_quantile", "by", "label_values", "or", "vector"}
TARGET = {"job", "instance"}
"""The labels that Prometheus itself adds."""


def shown(tmp_path: Any) -> dict[str, set[str]]:
    """The names of samples on a page, with their labels."""
    guard = Keyguard(ResponseCache(), RateLimit("1/hour", by="ip"), store=f"sqlite:///{tmp_path}/k.db?timeout=1")
    metrics = guard.metrics()
    assert [play(guard).status for _ in range(2)] == [200, 429]
    metrics._counts.table.add({("degraded", "ip refused"): 1, (ALERTS.name, "keyguard.overload"): 1})
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render().body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def asked(expression: str) -> list[tuple[str, set[str]]]:
    """The metrics of an expression, each with all labels that the expression names: in matchers or behind `by`."""
    assert expression.count("(") == expression.count(")"), expression
    names = re.findall(r"(keyguard_\w+)(?:\{([^}]*)\})?", expression)
    behind = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    rest = re.sub(r'"[^"]*"|keyguard_\w+|\{[^}]*\}|by \([^)]*\)|\$\w+|\[[^\]]*\]', " ", expression)
    words = set(re.findall(r"[a-z_]+", rest))
    assert words <= FUNCTIONS | TARGET, (expression, words - FUNCTIONS)
    return [(name, behind | set(re.findall(r"(\w+)(?:=~|!=|!~|=)", matchers))) for name, matchers in names]


def expressions(board: dict[str, Any]) -> list[str]:
    of_choices = [one["definition"] for one in board["templating"]["list"] if one["type"] == "query"]
    return [*of_choices, *(target["expr"] for panel in board["panels"] for target in panel["targets"])]


def test_each_expression_asks_for_what_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    assert main(["metrics", "board"]) == 0
    board = json.loads(capsys.readouterr().out)
    there, met = shown(tmp_path), set()
    for expression in expressions(board):
        found = asked(expression)
        assert found, expression
        for name, labels in found:
            assert name in there, expression
            assert labels - TARGET <= there[name], (name, expression)
            met.add(re.sub("_(bucket|count|sum)$", "", name))
    of_all = {re.sub("_(bucket|count|sum)$", "", name) for name in there}
    assert of_all - met == {"keyguard_cache_events_total"}, "what no panel shows"


def test_what_the_lines_are_called_stands_in_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    main(["metrics", "board"])
    for panel in json.loads(capsys.readouterr().out)["panels"]:
        for target in panel["targets"]:
            for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert name in re.search(r"by \(([^)]*)\)", target["expr"])[1].split(", "), target  # type: ignore[index]


def test_panels_fill_rows_and_do_not_overlap(capsys: pytest.CaptureFixture[str]) -> None:
    main(["metrics", "board"])
    panels = json.loads(capsys.readouterr().out)["panels"]
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(rate(keyguard_request_total[5m]))",
        'sum by (status) (rate(keyguard_requests_total{job="x"}[5m]))',
        'keyguard_store_up{name="x"}',
    ],
)
def test_this_test_would_see_a_wrong_one(wrong: str, tmp_path: Any) -> None:
    there = shown(tmp_path)
    assert any(name not in there or labels - TARGET - there[name] for name, labels in asked(wrong))
