"""The demo's view of the fleet: a sample of its machines, the newest alerts, throughput and latency."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tocsin.pipelines.cli.alerts import line
from tocsin.pipelines.cli.console import LEVELS, plain

if TYPE_CHECKING:
    import polars as pl

    from tocsin.pipelines.runtime.engine.alerts import Alert

SHOWN = 12
LANDED_S = 2.0
"""Seconds. A machine whose last reading is this much older than the newest one has left the fleet."""


@dataclass
class Fleet:
    """The state of the fleet, from the results table, the alert topic and the shard's own counts."""

    watched: dict[str, dict[str, Any]] = field(default_factory=dict)
    flying: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    scored: int = 0
    rate: float = 0.0
    latency: Mapping[str, float] = field(default_factory=dict)
    raised: int = 0
    alerts: deque[Alert] = field(default_factory=lambda: deque(maxlen=5))
    worst: Alert | None = None

    def __post_init__(self) -> None:
        from tocsin.models.rul.config import RulConfig
        from tocsin.models.rul.model import FD001

        config = RulConfig.load(FD001)
        self.cap = config.cap
        self.levels = {"critical": config.critical, "warning": config.warning}

    def record_sent(self, rows: int) -> None:
        """Record how many readings have been sent."""
        self.sent = rows

    def read(self, table: pl.LazyFrame, window: Mapping[str, Any] | None) -> None:
        """Update from each machine's last row in the results and from the shard's counts."""
        import polars as pl

        last = pl.col("cycle", "rul", "event_time").sort_by("cycle").last()
        latest = table.group_by("key").agg(last, pl.len()).collect()
        self.scored = int(latest["len"].sum())
        flying = latest.filter(pl.col("event_time") > pl.col("event_time").max() - pl.duration(seconds=LANDED_S))
        self.flying = Counter(map(self.level, flying["rul"]))
        self._watch({row["key"]: row for row in flying.sort("rul").iter_rows(named=True)})
        if window and window["counts"].get("rows"):
            self.rate, self.latency = window["counts"]["rows"] / window["seconds"], window["latency_ms"]

    def record_alert(self, alert: Alert) -> None:
        """Record an alert if it was raised."""
        if alert.transition == "raised":
            self.raised += 1
            self.alerts.append(alert)
            if self.worst is None or alert.severity == "critical":
                self.worst = alert

    def _watch(self, flying: Mapping[str, dict[str, Any]]) -> None:
        """Keep showing the same machines, each in its row. The newest machine takes the row of one that failed."""
        if not self.watched:  # a sample from worn to new
            keys = list(flying)
            self.watched = {key: flying[key] for key in keys[:: max(len(keys) // SHOWN, 1)][:SHOWN]}
            return
        newest = sorted(flying.keys() - self.watched.keys(), key=lambda key: -flying[key]["cycle"])
        shown_keys = [key if key in flying or not newest else newest.pop() for key in self.watched]
        self.watched = {key: flying.get(key) or self.watched[key] for key in shown_keys}

    def level(self, rul: float) -> str:
        """The alert level of a machine with this RUL."""
        return next((name for name, threshold in self.levels.items() if rul < threshold), "healthy")

    def __rich__(self) -> Group:
        if not self.watched:  # the model needs 30 cycles of an engine for its first prediction
            return Group(*self.headlines()[1:])
        machines = Table(box=None, pad_edge=False, header_style="dim")
        for name, justify in (
            ("engine", "right"),
            ("cycle", "right"),
            ("cycles left", "left"),
            ("", "right"),
            ("", "left"),
        ):
            machines.add_column(name, justify=justify)  # type: ignore[arg-type]
        for key, machine in self.watched.items():
            rul, style = machine["rul"], LEVELS[level := self.level(machine["rul"])]
            bar = ProgressBar(total=self.cap, completed=rul, width=40, complete_style=style, finished_style=style)
            machines.add_row(plain(key), str(machine["cycle"]), bar, f"{rul:.0f}", Text(level, style))
        return Group(*self.headlines(), Text(), machines, Text(), *map(line, self.alerts))

    def headlines(self) -> tuple[Text, Text]:
        """The fleet in two lines."""
        levels = [(f"   {self.flying[level]} {level}", style) for level, style in reversed(LEVELS.items())]
        alerts = (f"   {self.raised} alerts", "bold")
        latency = "".join(f"   {p} {ms:,.0f} ms" for p, ms in self.latency.items() if p in ("p50", "p99"))
        throughput = f"{self.sent:,} readings sent, {self.scored:,} rows scored   {self.rate:,.0f}/s{latency}"
        return Text.assemble((f"{self.flying.total()} engines", "bold"), *levels, alerts), Text(throughput, "dim")
