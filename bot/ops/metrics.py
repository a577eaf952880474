"""Prometheus metrics.

Promises: labels are bounded and seeded, so that a series is there, at 0, before the first event of its kind; a value
that isn't in the seed counts as `other`. Counters start at 0 with the process and count what is recorded from then on.
A scrape reads what is in memory; what needs the database was read by `Counting` before, every few seconds.
Doesn't promise exactness between two readings: the record is the truth, `langdao-keeper settlements` reads it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import product
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from bot.domain.facts import Kind, Source
from bot.domain.table import TABLE
from bot.nudges.channel import How
from bot.ops.catalogue import ALERTS
from bot.ops.readiness import NAMES
from bot.store.news import News

M = TypeVar("M", Counter, Gauge, Histogram)

PREFIX = "langdao_keeper"
OTHER = "other"

ACTIONS = ("wait", "nudge", "end", "hold", "alert", "close")
REASONS = (*dict.fromkeys(row.rule.partition(":")[0] for row in TABLE), "running", "ended-on-chain")
TX_KINDS = ("settle", "retract", "fill")
TX_STEPS = ("stored", "sent", "mined", "confirmed", "final", "replaced", "lost", "reorged-out", "dropped")
METHODS = (
    "eth_blockNumber", "eth_call", "eth_chainId", "eth_feeHistory", "eth_gasPrice", "eth_getBalance",
    "eth_getBlockByHash", "eth_getBlockByNumber", "eth_getCode", "eth_getLogs", "eth_getTransactionByHash",
    "eth_getTransactionCount", "eth_getTransactionReceipt", "eth_sendRawTransaction", "batch",
)  # fmt: skip
FEEDS = ("socket", "webhook", "redis")
REFUSALS = ("refused", "unauthorised", "limited", "not_stored", "ignored")
CHANNELS = ("gateway", "chat", "event", "webhook", "apprise", "none")
NUDGED = tuple(how.value for how in How)
RULES = ("chain-id", "room", "addresses", "tutor")
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 900)
RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(slots=True)
class Readings:
    """The present, as far as it isn't counted: what a scrape shows as gauges. None: not known or not in use."""

    head: int | None = None
    lag_blocks: int | None = None
    head_age_s: float | None = None
    at_head: bool = False
    active: int = 0
    over: int = 0
    set_aside: int = 0
    rooms_waiting: int = 0
    feeds: Mapping[str, bool] = field(default_factory=dict)
    not_ready: Iterable[str] = ()
    breakers: Mapping[str, bool] = field(default_factory=dict)
    in_flight: int = 0
    balance_wei: int | None = None
    settlements_left: int | None = None
    gas_spent_day_wei: int = 0
    gas_budget_wei: int = 0
    overbilled_day_s: int = 0
    overbilled_day_amount: int = 0
    refused: Mapping[tuple[str, str], int] = field(default_factory=dict)  # feed, why: since the start
    linked: Mapping[str, int] = field(default_factory=dict)
    heartbeats: int = 0
    duplicates: int = 0
    logs: int = 0


class Metrics:
    """All series in a registry of their own."""

    def __init__(self, endpoints: Iterable[str], *, breakers: Iterable[str]) -> None:
        disable_created_metrics()  # a second series for each counter, which nobody reads
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._endpoints = tuple(dict.fromkeys(endpoints))
        self._breakers = tuple(breakers)
        self._totals: dict[tuple[str, ...], int] = {}

        def counter(name: str, text: str, /, **labels: Iterable[str]) -> Counter:
            return _seeded(Counter(f"{PREFIX}_{name}", text, tuple(labels), registry=registry), labels)

        def gauge(name: str, text: str, /, **labels: Iterable[str]) -> Gauge:
            return _seeded(Gauge(f"{PREFIX}_{name}", text, tuple(labels), registry=registry), labels)

        def histogram(name: str, text: str, buckets: Iterable[float], /, **labels: Iterable[str]) -> Histogram:
            made = Histogram(f"{PREFIX}_{name}", text, tuple(labels), registry=registry, buckets=tuple(buckets))
            return _seeded(made, labels)

        about = gauge("build_info", "Always 1; the labels say what runs", version=(), python=())
        about.labels(version("langdao-keeper"), platform.python_version()).set(1)

        self._head = gauge("head_block", "Newest block that the index has reached")
        self._lag = gauge("follower_lag_blocks", "Blocks between the node's head and the index")
        self._head_age = gauge("head_age_seconds", "Time since the newest block was received")
        self._at_head = gauge("at_head", "1 while the index is at the node's head")
        self._logs = counter("logs", "Logs of the contract that were indexed")
        self._sessions = gauge("sessions", "Sessions on chain", state=("active", "over", "set-aside"))
        self._rooms = gauge("rooms_waiting", "Rooms that joined no session yet")
        self._feed_up = gauge("feed_up", "1 while the feed can be heard", feed=FEEDS)
        self._not_ready = gauge("not_ready", "1 for each reason why /ready answers 503", reason=NAMES)
        self._breaker = gauge("breaker_open", "1 while it holds ends back", breaker=self._breakers)

        self._facts = counter("facts", "Facts stored", source=(*map(str, Source),), kind=(*map(str, Kind),))
        self._refused = counter("refused", "Messages refused, by feed and why", feed=FEEDS, why=REFUSALS)
        self._linked = counter("linked", "Rooms joined to a session, by the rule", rule=RULES)
        self._heartbeats = counter("heartbeats", "Heartbeats believed")
        self._duplicates = counter("duplicates", "Hints dropped as equal to one just heard")
        self._decisions = counter("decisions", "Decisions stored", action=ACTIONS, reason=(*REASONS, OTHER))
        self._alerts = counter("alerts", "Alerts raised", name=(*ALERTS, OTHER))
        self._nudges = counter("nudges", "Nudges, by channel and what came of them", channel=CHANNELS, result=NUDGED)

        self._tx = counter("transactions", "Steps of our transactions", kind=TX_KINDS, step=TX_STEPS)
        self._in_flight = gauge("in_flight", "Nonces signed for and not yet used")
        self._max_fee = gauge("max_fee_wei", "Fee cap per gas of the newest transaction", kind=TX_KINDS)
        self._gas = counter("gas_spent_wei", "Wei burnt by our transactions, once confirmed")
        self._gas_day = gauge("gas_spent_day_wei", "Wei burnt in the last 24 hours")
        self._gas_budget = gauge("gas_budget_day_wei", "DAILY_GAS_BUDGET_ETH")
        self._balance = gauge("balance_wei", "Balance of the signing account")
        self._left = gauge("settlements_left", "Settlements that the balance is good for at the present fee")
        self._to_broadcast = histogram("due_to_broadcast_seconds", "From due to accepted by a node", SECONDS)
        self._to_final = histogram("due_to_final_seconds", "From due to final on chain", (*SECONDS, 1800, 3600))
        self._over_s = gauge("overbilled_day_seconds", "Seconds billed after the calls' ends, last 24 hours")
        self._over_amount = gauge("overbilled_day_amount", "What these cost, base units of the token")

        where = {"endpoint": self._endpoints, "method": (*METHODS, OTHER)}
        self._rpc = counter("rpc_requests", "Requests to nodes", **where, result=("ok", "error"))
        self._rpc_s = histogram("rpc_seconds", "How long nodes took to answer", RPC_SECONDS, **where)

    def asked(self, endpoint: str, method: str, took_s: float, ok: bool) -> None:
        """A node was asked something."""
        if endpoint not in self._endpoints:
            return
        method = _known(method, METHODS)
        self._rpc.labels(endpoint, method, "ok" if ok else "error").inc()
        self._rpc_s.labels(endpoint, method).observe(took_s)

    def count(self, news: News) -> None:
        """What was recorded since the last call."""
        for source, kind in news.facts:
            self._facts.labels(source, kind).inc()
        for action, reason in news.decisions:
            self._decisions.labels(action, _known(reason.partition(":")[0], REASONS)).inc()
        for name in news.alerts:
            self._alerts.labels(_known(name, ALERTS)).inc()
        for said in news.nudges:
            channel = str(said.get("channel") or "none")
            result = str(said.get("outcome"))
            if channel in CHANNELS and result in NUDGED:
                self._nudges.labels(channel, result).inc()
        for step in news.steps:
            if step.kind not in TX_KINDS or step.step not in TX_STEPS:
                continue
            if step.first:
                self._tx.labels(step.kind, step.step).inc()
                if step.step == "stored":
                    self._max_fee.labels(step.kind).set(step.max_fee)
                if step.step == "confirmed" and step.gas_cost:
                    self._gas.inc(step.gas_cost)
            if step.kind == "settle" and step.due_ms is not None:
                took_s = max(0.0, (step.at_ms - step.due_ms) / 1000)
                if step.step == "sent":
                    self._to_broadcast.observe(took_s)
                elif step.step == "final":
                    self._to_final.observe(took_s)

    def render(self, now: Readings) -> bytes:
        """The text exposition format."""
        for gauge, value in (
            (self._head, now.head), (self._lag, now.lag_blocks), (self._head_age, now.head_age_s),
            (self._at_head, int(now.at_head)), (self._rooms, now.rooms_waiting), (self._in_flight, now.in_flight),
            (self._balance, now.balance_wei), (self._left, now.settlements_left),
            (self._gas_day, now.gas_spent_day_wei), (self._gas_budget, now.gas_budget_wei),
            (self._over_s, now.overbilled_day_s), (self._over_amount, now.overbilled_day_amount),
        ):  # fmt: skip
            gauge.set(float("nan") if value is None else value)
        for state, count in (("active", now.active), ("over", now.over), ("set-aside", now.set_aside)):
            self._sessions.labels(state).set(count)
        for feed in FEEDS:
            self._feed_up.labels(feed).set(int(now.feeds.get(feed, False)))
        not_ready = set(now.not_ready)
        for name in NAMES:
            self._not_ready.labels(name).set(int(name in not_ready))
        for name in self._breakers:
            self._breaker.labels(name).set(int(now.breakers.get(name, False)))
        for (feed, why), total in now.refused.items():
            self._raise(self._refused.labels(feed, _known(why, REFUSALS)), total, "refused", feed, why)
        for rule, total in now.linked.items():
            if rule in RULES:
                self._raise(self._linked.labels(rule), total, "linked", rule)
        self._raise(self._heartbeats, now.heartbeats, "heartbeats")
        self._raise(self._duplicates, now.duplicates, "duplicates")
        self._raise(self._logs, now.logs, "logs")
        return generate_latest(self._registry)

    def _raise(self, counter: Counter, total: int, *name: str) -> None:
        """Raises a counter to a total that is kept elsewhere."""
        before = self._totals.get(name, 0)
        if total > before:
            counter.inc(total - before)
            self._totals[name] = total


def _known(value: str, seed: Iterable[str]) -> str:
    return value if value in seed else OTHER


def _seeded(metric: M, labels: Mapping[str, Iterable[str]]) -> M:
    """Makes each series exist from the start."""
    values = [tuple(seed) for seed in labels.values()]
    if values and all(values):
        for one in product(*values):
            metric.labels(*one)
    return metric
