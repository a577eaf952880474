"""Metrics are there from the start, bounded, and the rules and the dashboard name those that exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from bot.desk import BREAKERS
from bot.ops.metrics import Metrics, Readings
from bot.store.news import Cursor, News, TxStep

CHECKOUT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\blangdao_keeper_[a-z_]+\b")
PROCESS = re.compile(r"\bprocess_[a-z_]+\b")


def scraped(metrics: Metrics, readings: Readings | None = None) -> dict[str, float]:
    lines = metrics.render(readings or Readings()).decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    }


def fresh() -> Metrics:
    return Metrics(["http://127.0.0.1:8545"], breakers=BREAKERS)


@pytest.mark.parametrize("path", ["deploy/prometheus/alerts.yaml", "deploy/grafana/keeper.json"])
def test_deploy__metrics_that_it_names__exist(path: str) -> None:
    text = (CHECKOUT / path).read_text()
    known = {name.partition("{")[0] for name in scraped(fresh())}
    named = set(NAME.findall(text)) | set(PROCESS.findall(text))
    assert len(named) > 8
    assert named - known == set()


def queries() -> list[str]:
    """Of the alert rules and of the dashboard, with the latter's variables filled in as Grafana does."""
    rules = yaml.safe_load((CHECKOUT / "deploy/prometheus/alerts.yaml").read_text())
    panels = json.loads((CHECKOUT / "deploy/grafana/keeper.json").read_text())["panels"]
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    found += [target["expr"] for panel in panels for target in panel["targets"]]
    return [re.sub(r"\$__\w+", "5m", query) for query in found]


def test_queries__every_one__is_promql() -> None:
    """By Prometheus's own grammar, in node_modules."""
    broken = "sum(rate(up[5m])"
    reader = ["node", str(CHECKOUT / "tests/support/promql.js")]
    done = subprocess.run(reader, input=json.dumps([*queries(), broken]), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [broken]


def test_queries__labels_that_they_name__exist() -> None:
    series = {name.partition("{")[0]: set(re.findall(r'(\w+)="', name)) for name in scraped(fresh())}
    for query in queries():
        metrics = NAME.findall(query)
        known = set().union(*(series.get(metric, set()) for metric in metrics)) | {"le", "job", "instance"}
        grouped = re.findall(r"\bby \(([^)]*)\)", query) + re.findall(r"\{([^}]*)\}", query)
        named = {
            label for part in grouped for label in re.findall(r"(\w+)(?=\s*(?:=|!|,|$))", re.sub('"[^"]*"', "", part))
        }
        assert named <= known, query


def test_rules__every_one__has_a_severity_and_a_summary() -> None:
    text = (CHECKOUT / "deploy/prometheus/alerts.yaml").read_text()
    rules = text.count("- alert:")
    assert rules >= 8
    assert text.count("severity:") == text.count("summary:") == text.count("expr:") == rules


def test_dashboard__panels__have_names_of_their_own_and_queries() -> None:
    panels = json.loads((CHECKOUT / "deploy/grafana/keeper.json").read_text())["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["targets"] for panel in panels)


def test_metrics__before_the_first_event__have_their_series_at_zero() -> None:
    """A series is there, at 0, before the first event of its kind."""
    seen = scraped(fresh())
    assert seen['langdao_keeper_decisions_total{action="end",reason="silence"}'] == 0
    assert seen['langdao_keeper_transactions_total{kind="retract",step="stored"}'] == 0
    assert (
        seen['langdao_keeper_rpc_requests_total{endpoint="http://127.0.0.1:8545",method="eth_call",result="ok"}'] == 0
    )


def test_metrics__value_out_of_the_seed__counts_as_other() -> None:
    metrics = fresh()
    before = set(scraped(metrics))
    metrics.asked("http://127.0.0.1:8545", "evil_method", 0.1, False)
    metrics.asked("http://elsewhere", "eth_call", 0.1, True)
    metrics.count(News(Cursor(), decisions=[("end", "a-rule-of-tomorrow")], alerts=["alert.unknown"]))
    seen = scraped(metrics)
    assert set(seen) == before
    assert seen['langdao_keeper_decisions_total{action="end",reason="other"}'] == 1
    assert seen['langdao_keeper_alerts_total{name="other"}'] == 1


def test_metrics__away_of_a_role__counts_as_away() -> None:
    metrics = fresh()
    metrics.count(News(Cursor(), decisions=[("nudge", "away:student")]))
    assert scraped(metrics)['langdao_keeper_decisions_total{action="nudge",reason="away"}'] == 1


def test_metrics__batch_of_two_sessions__is_one_transaction_and_two_waits() -> None:
    metrics = fresh()
    step = TxStep("settle", "sent", True, 10_000, 9_000, 5, None)
    metrics.count(News(Cursor(), steps=[step, TxStep("settle", "sent", False, 10_000, 7_500, 5, None)]))
    seen = scraped(metrics)
    assert seen['langdao_keeper_transactions_total{kind="settle",step="sent"}'] == 1
    assert seen["langdao_keeper_due_to_broadcast_seconds_count"] == 2
    assert seen["langdao_keeper_due_to_broadcast_seconds_sum"] == 3.5


def test_metrics__total_kept_elsewhere__never_counts_twice() -> None:
    metrics = fresh()
    for total in (3, 3, 5):
        seen = scraped(metrics, Readings(heartbeats=total))
    assert seen["langdao_keeper_heartbeats_total"] == 5


def test_count__nudges__by_channel_and_what_came_of_them() -> None:
    metrics = fresh()
    said = [
        {"channel": "webhook", "outcome": "sent"},
        {"channel": "gateway", "outcome": "delivered"},
        {"channel": None, "outcome": "undelivered"},
        {"channel": "pigeon", "outcome": "sent"},
    ]
    metrics.count(News(Cursor(), nudges=said))
    counted = {name: value for name, value in scraped(metrics).items() if name.startswith("langdao_keeper_nudges_")}
    assert {name for name, value in counted.items() if value == 1} == {
        'langdao_keeper_nudges_total{channel="webhook",result="sent"}',
        'langdao_keeper_nudges_total{channel="gateway",result="delivered"}',
        'langdao_keeper_nudges_total{channel="none",result="undelivered"}',
    }
