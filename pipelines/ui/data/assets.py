"""Assets, the keys of results tables: the latest row of each, and the history of one as a bounded number of points."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from tocsin.pipelines.query import results, tables
from tocsin.pipelines.runtime import Unavailable
from tocsin.pipelines.runtime.control.deployment import ALERTS
from tocsin.pipelines.runtime.declare.curves import Curve, Explanation
from tocsin.pipelines.runtime.lake.delta import delta_table
from tocsin.pipelines.runtime.lake.storage import Lake, read

IDENTITY = ("topic", "partition", "offset", "row", "key", "event_time", "processed_at", "model_version", "event_date")
"""Columns that the runtime adds to every table."""
ASSETS, POINTS, DAYS = 5000, 600, 3
"""Most assets listed, most points of a history, and days before the newest row within which an asset must have a row."""
SPAN = timedelta(days=7)
HEAT_ROWS = 120
"""Rows of an attention map."""
DRAWN = 4
"""Most curves that are drawn unasked."""


@dataclass(frozen=True)
class History:
    """An asset's rows over a time.

    Args:
        rows: all columns, by time; thinned, keeping the extremes of `main`.
        curves: the columns that can be drawn, see `curves`.
        total: rows before thinning.
        explanation: the column that explains the results; None: there is none.
    """

    rows: pl.DataFrame
    curves: Sequence[Curve]
    total: int
    explanation: Explanation | None = None

    @property
    def main(self) -> str:
        """The column that the asset is judged by; "": it has none."""
        return main_column(self.curves)

    @property
    def drawn(self) -> list[Curve]:
        """The curves to draw unasked."""
        return [curve for curve in self.curves if curve.axis][:DRAWN]


class Assets:
    """Reads assets from the lake. A list is read again only once its table has a new commit."""

    def __init__(self, lake: Lake) -> None:
        self._lake, self._lock = lake, threading.Lock()
        self._latest: dict[str, tuple[int, pl.DataFrame]] = {}

    def pipelines(self) -> list[str]:
        """Pipelines that have a results table."""
        return [name for name in tables(self._lake) if name != ALERTS]

    def latest(self, pipeline: str) -> pl.DataFrame:
        """The latest row of each asset, by key; nested columns are left out.

        Raises:
            Unavailable: the table does not exist yet.
        """
        self._check(pipeline)
        table = delta_table(self._lake, pipeline)
        version = table.version() if table else -1
        with self._lock:
            known = self._latest.get(pipeline)
        if known and known[0] == version:
            return known[1]
        frame = self._read_latest(pipeline)
        with self._lock:
            self._latest[pipeline] = version, frame
        return frame

    def curves(self, pipeline: str) -> list[Curve]:
        """The columns of a pipeline that can be drawn; see `curves`.

        Raises:
            Unavailable: the table does not exist yet.
        """
        self._check(pipeline)
        return curves(*self._declared(pipeline))

    def history(self, pipeline: str, key: str, *, since: datetime | None = None, points: int = POINTS) -> History:
        """An asset's rows.

        Args:
            since: the first event time; None: a week before its last row.
            points: the most rows.

        Raises:
            Unavailable: the table does not exist yet.
        """
        self._check(pipeline)
        rows = results(pipeline, lake=self._lake).filter(pl.col("key") == key)
        if since is None:
            last: datetime | None = rows.select(pl.col("event_time").max()).collect().item()
            if last is not None:
                day = (last - SPAN).strftime("%Y-%m-%d")
                rows = rows.filter(pl.col("event_date") >= day, pl.col("event_time") > last - SPAN)
        else:
            rows = rows.filter(pl.col("event_date") >= since.strftime("%Y-%m-%d"), pl.col("event_time") >= since)
        frame = rows.sort("event_time", "partition", "offset", "row").collect()
        schema, metadata = self._declared(pipeline)
        known = [curve for curve in curves(schema, metadata) if curve.name in frame.columns]
        explained = (Explanation.of(name, each) for name, each in metadata.items() if name in frame.columns)
        explanation = next((each for each in explained if each), None)
        return History(thinned(frame, main_column(known), points), known, frame.height, explanation)

    def _declared(self, pipeline: str) -> tuple[pl.Schema, dict[str, dict[str, object]]]:
        """The columns of a table, and the metadata of each."""
        if (table := delta_table(self._lake, pipeline)) is None:
            return pl.Schema(), {}
        schema = table.schema()
        return pl.Schema(schema), {field.name: field.metadata for field in schema.fields}

    def frame(self, path: str) -> bytes | None:
        """A kept frame, by a path of the column `frame`; None: it has expired, or the path leads elsewhere."""
        parts = path.split("/")
        if parts[0] != "frames" or ".." in parts:
            return None
        try:
            return read(self._lake.files, path)
        except (FileNotFoundError, OSError):
            return None

    def _check(self, pipeline: str) -> None:
        """Accept only a table of the lake: the name comes from a browser, and `../other` would lead out of the lake."""
        if pipeline not in (existing := self.pipelines()):
            names = ", ".join(existing) or "none"
            raise Unavailable(
                f"results of {pipeline}: expected one of the lake's tables ({names}), got another; start its pipeline"
            )

    def _read_latest(self, pipeline: str) -> pl.DataFrame:
        rows = results(pipeline, lake=self._lake)
        newest = rows.select(pl.col("event_date").max()).collect().item()
        if newest is None:
            return rows.head(0).collect()
        first = datetime.strptime(newest, "%Y-%m-%d") - timedelta(days=DAYS)
        schema = rows.collect_schema()
        flat = [name for name, dtype in schema.items() if not dtype.is_nested()]
        recent = rows.filter(pl.col("event_date") >= first.strftime("%Y-%m-%d")).select(flat)
        latest = recent.group_by("key").agg(pl.all().sort_by("event_time", "partition", "offset").last())
        return latest.select(flat).sort("key").head(ASSETS).collect()


def curves(schema: Mapping[str, pl.DataType], metadata: Mapping[str, Mapping[str, object]]) -> list[Curve]:
    """The columns of a table that can be drawn, the ones with an axis first.

    With none declared, each float has an axis of its own; integers are mostly counters and ids.
    """
    own = {n: t for n, t in schema.items() if n not in IDENTITY and (t.is_numeric() or t == pl.Boolean)}
    found = [Curve.of(name, metadata.get(name, {})) for name in own]
    if not any(curve.axis for curve in found):
        found = [replace(curve, axis=curve.name) if own[curve.name].is_float() else curve for curve in found]
    return sorted(found, key=lambda curve: not curve.axis)


def main_column(curves: Sequence[Curve]) -> str:
    """The column that an asset is judged by: the first one with an axis; "": there is none."""
    return next((curve.name for curve in curves if curve.axis), "")


def thinned(frame: pl.DataFrame, main: str, points: int = POINTS) -> pl.DataFrame:
    """At most `points` rows of a frame that is sorted by time. Of each span of rows, those with the least and most `main` stay.

    Without `main`, every n-th row stays. The last row always stays.
    """
    if frame.height <= points:
        return frame
    if not main:
        return frame.reverse().gather_every(-(-frame.height // points)).reverse()
    indexed = frame.select(pl.col(main).cast(pl.Float64)).with_row_index("n")
    spans = indexed.group_by(pl.col("n") * max((points - 1) // 2, 1) // frame.height)
    extremes = spans.agg(
        pl.col("n").get(pl.col(main).arg_min().fill_null(0)).alias("low"),
        pl.col("n").get(pl.col(main).arg_max().fill_null(0)).alias("high"),
    )
    kept = pl.concat([extremes["low"], extremes["high"], indexed["n"].tail(1)]).unique().sort()
    return frame[kept.to_list()]


def heat(rows: pl.DataFrame, column: str = "attention") -> tuple[list[datetime], list[list[float]]]:
    """The last rows of a list column, as a map: the rows' times, and for each the values.

    Rows whose list is missing are left out.
    """
    found = rows.filter(pl.col(column).is_not_null()).tail(HEAT_ROWS)
    return found["event_time"].to_list(), found[column].to_list()


def frames(rows: pl.DataFrame, last: int = 12) -> Sequence[Mapping[str, Any]]:
    """The last rows that have a kept frame, oldest first."""
    return rows.filter(pl.col("frame").is_not_null()).tail(last).to_dicts() if "frame" in rows.columns else []


def around(rows: pl.DataFrame, at: datetime, last: int = 9) -> Sequence[Mapping[str, Any]]:
    """The rows with kept frames nearest to a time, oldest first."""
    if "frame" not in rows.columns:
        return []
    kept = rows.filter(pl.col("frame").is_not_null())
    nearest = kept.with_columns(((pl.col("event_time") - at).dt.total_milliseconds().abs()).alias("\0away"))
    return nearest.sort("\0away").head(last).drop("\0away").sort("event_time").to_dicts()


def age(moment: datetime, now: float | None = None) -> float:
    """Seconds since a time."""
    return (time.time() if now is None else now) - moment.timestamp()
