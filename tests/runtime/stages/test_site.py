"""A row's site is found in its key."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import StepContext
from tocsin.pipelines.runtime.declare.stores import Stores
from tocsin.pipelines.runtime.stages.site import Site


def found(stage: Site, keys: pa.Array) -> tuple[list[int], list[str | None]]:
    ctx = StepContext(0, "unit", "time", lambda slots: (slots, keys))
    rows = Rows(pa.RecordBatch.from_arrays([keys], ["unit"]), torch.arange(len(keys)))
    out = stage.step(rows, Stores({}), ctx)
    return out.tensors["site"].tolist(), out.table.column("adapter").to_pylist()


def test_the_key_itself_is_the_site() -> None:
    assert found(Site(["b", "a"]), pa.array(["a", "b", "c", "a"])) == ([1, 0, -1, 1], ["a", "b", None, "a"])
    assert found(Site(["7"]), pa.array([7, 8])) == ([0, -1], ["7", None])
    assert found(Site(["a"]), pa.array([], pa.string())) == ([], [])


def test_a_pattern_names_the_site_in_a_key() -> None:
    keys = pa.array(["hall/1", "hall/2", "yard/1", "hall", "shed/9"])
    numbers, names = found(Site(["hall", "yard"], pattern="^([^/]+)/"), keys)
    assert (numbers, names) == ([0, 0, 1, -1, -1], ["hall", "hall", "yard", None, None])


@pytest.mark.parametrize(
    ("pattern", "why"), [("^(a", "regular expression"), ("a/", "one group"), ("(a)(b)", "one group")]
)
def test_a_pattern_that_names_no_site_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"expected (a )?{why}"):
        Site(["a"], pattern=pattern)
