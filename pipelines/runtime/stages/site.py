"""Tells each row's site, whose adapter judges it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import torch

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Stores


class Site(Stage):
    """Adds `tensors["site"]` `[B] int64`, each row's place among a model's sites, -1 for none, and the site's name as a column.

    Args:
        sites: names of the model's sites, in the order of its adapters.
        pattern: a regular expression with one group, the site in a key, such as `^([^/]+)/`; "": the key itself is the site.
        column: the column with the name, null for a row of no known site.

    Raises:
        ConfigError: the pattern is no regular expression with one group.
    """

    numbered = False  # a running pipeline may take up a model with sites

    def __init__(self, sites: Sequence[str], *, pattern: str = "", column: str = "adapter") -> None:
        try:
            groups = re.compile(pattern).groups if pattern else 1
        except re.error as reason:
            raise ConfigError(f"site {pattern!r}: expected a regular expression, got {reason}; correct it") from reason
        if groups != 1:
            raise ConfigError(f"site {pattern!r}: expected one group, which names the site, got {groups}; add (...)")
        self._sites, self._pattern, self._column = pl.Series(sites, dtype=pl.String), pattern, column

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        key = rows.table.column(ctx.key).cast(pa.string())
        names = pl.from_arrow(key)
        assert isinstance(names, pl.Series)
        if self._pattern:
            names = names.str.extract(self._pattern, 1)
        numbers = pl.select(
            names.replace_strict(
                self._sites, pl.int_range(len(self._sites), eager=True), default=-1, return_dtype=pl.Int64
            )
        ).to_series()
        known = pl.select(pl.when(numbers >= 0).then(names)).to_series()
        site = torch.from_numpy(numbers.to_numpy().copy())
        return rows.with_columns({self._column: known.to_arrow().cast(pa.string())}).with_tensors(site=site)
