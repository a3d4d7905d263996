"""Frames unlike the training data: when they are noticed, when not, and the same for any split and after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, AlertRule, Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.jpeg import FACTS, frame_fields
from tocsin.pipelines.runtime.stages import Familiar

FILE, PIXELS = frame_fields(2, 3)
NOW = 1_767_225_600_000
LIGHT, DARK = 120, 3


class Bright:
    """Frames are usual from a brightness of 20 on. The length of the file is known of some, and never unusual."""

    statistics = ("brightness", "bytes")

    def __init__(self) -> None:
        self.looks = 0

    def measure(self, picture: NDArray[np.uint8], file: bytes) -> Tensor:
        assert picture.shape == (2, 3, 3)
        self.looks += 1
        return torch.tensor([picture.mean(), float(len(file)) if picture.mean() > 100 else torch.nan])

    def excess(self, values: Tensor) -> Tensor:
        return torch.stack([(20 - values[0]) / 10, values[1] * 0 - 1]).clamp(-1, 1)

    def said(self, at: int, value: float) -> str:
        return f"{self.statistics[at]} {value:g}, usually at least 20"


def declared(usual: Bright | None) -> Pipeline:
    return Pipeline(
        name="p",
        topic="t",
        schema=pa.schema([*FACTS, FILE, PIXELS]),
        key="camera",
        event_time="time",
        stages=[Familiar(PIXELS, usual, file="jpeg")],
        results=pa.schema(
            [("camera", pa.string()), ("sequence", pa.int64()), ("in_domain", pa.bool_()), ("unlike", pa.string())]
        ),
        rules=[
            AlertRule(name="out_of_domain", severity="warning", when=~pl.col("in_domain"), data=["sequence", "unlike"])
        ],
    )


def film(levels: Sequence[int], *, camera: str = "a", pause: int = 100) -> list[dict[str, Any]]:
    """Frames of one colour each, `pause` ms apart."""
    return [
        {"camera": camera, "sequence": n, "time": NOW + n * pause, "jpeg": b"x" * 9, "pixels": bytes([level] * 18)}
        for n, level in enumerate(levels)
    ]


def table(p: Pipeline, shots: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(shots), schema=p.schema)


def verdicts(levels: Sequence[int], **how: Any) -> list[bool | None]:
    rows, _ = replay(p := declared(Bright()), table(p, film(levels, **how)))
    return rows["in_domain"].to_list()


def test_the_first_second_is_not_known_and_then_it_is() -> None:
    found = verdicts([LIGHT] * 30)
    known = found.index(True)
    assert 5 <= known <= 10
    assert found == [None] * known + [True] * (30 - known)
    dark = verdicts([DARK] * 30)
    assert dark == [None] * known + [False] * (30 - known), "as soon as anything is known"


def test_a_camera_that_goes_dark_rings_within_half_a_minute_and_ends_when_it_is_light() -> None:
    levels = [LIGHT] * 600 + [DARK] * 600 + [LIGHT] * 600
    rows, alerts = replay(p := declared(Bright()), table(p, film(levels)))
    (raised, cleared) = alerts
    assert (raised.transition, cleared.transition) == ("raised", "cleared")
    assert 600 < raised.data["sequence"] <= 900 and 1200 < cleared.data["sequence"] <= 1500
    assert raised.data["unlike"] == f"brightness {DARK}, usually at least 20"
    found = rows.sort("sequence")
    assert found["in_domain"].to_list()[600 : raised.data["sequence"]] == [True] * (raised.data["sequence"] - 600)
    assert found.filter(pl.col("in_domain").not_())["unlike"].null_count() == 0
    assert found.filter("in_domain")["unlike"].null_count() == found["in_domain"].sum()


def test_a_hand_before_the_lens_is_nothing() -> None:
    found = verdicts(([LIGHT] * 110 + [DARK] * 10) * 10)
    assert False not in found


def test_it_looks_now_and_then_and_less_often_later_on() -> None:
    usual = Bright()
    replay(p := declared(usual), table(p, film([LIGHT] * 900)))
    first = usual.looks
    replay(p := declared(usual), table(p, film([LIGHT] * 6000)))
    assert first < 45 and usual.looks - 2 * first < 510_000 / 4_000 + 2


def test_a_clock_that_goes_back_does_not_stop_the_looks() -> None:
    shots = film([LIGHT] * 300)
    again = [
        {**shot, "sequence": shot["sequence"] + 300, "time": shot["time"] - 3_600_000} for shot in film([DARK] * 600)
    ]
    rows, _ = replay(p := declared(Bright()), table(p, shots + again))
    assert rows["in_domain"].to_list()[-1] is False


@pytest.mark.parametrize("splits", [[1] * 240, [7] * 34 + [2], [100, 1, 139]])
def test_cameras_are_judged_by_themselves_and_any_split_gives_the_same(splits: list[int]) -> None:
    p = declared(Bright())
    a, b = film([LIGHT] * 40 + [DARK] * 80), film([DARK] * 30 + [LIGHT] * 90, camera="b", pause=130)
    both = [shot for pair in zip(a, b, strict=True) for shot in pair]
    together, alerts = replay(p, table(p, both), splits=splits)
    for camera, own in (("a", a), ("b", b)):
        alone, rang = replay(p, table(p, own))
        columns = ["sequence", "in_domain", "unlike"]
        assert together.filter(camera=camera).select(columns).equals(alone.select(columns))
        assert [x.data["sequence"] for x in alerts if x.key == camera] == [x.data["sequence"] for x in rang]
    assert len(alerts) >= 2 and {x.key for x in alerts} == {"a", "b"}


def test_it_goes_on_from_a_snapshot() -> None:
    p = declared(Bright())
    batch = table(p, film([LIGHT] * 60 + [DARK] * 60)).combine_chunks().to_batches()[0]
    identity = pa.RecordBatch.from_arrays(
        [pa.array([0] * 120, f.type) if f.name != "_offset" else pa.array(range(120), f.type) for f in IDENTITY],
        schema=IDENTITY,
    )
    whole = pa.RecordBatch.from_arrays([*identity.columns, *batch.columns], names=[*IDENTITY.names, *p.schema.names])
    whole = whole.cast(pa.schema([*IDENTITY, *p.schema]))
    steady, machine, chain = Machine(p), Machine(p), [Machine(p).delta(full=True)]
    for at in range(0, 120, 5):
        expected, outcome = (m.step(whole.slice(at, 5), NOW) for m in (steady, machine))
        assert outcome.results.drop_columns("processed_at") == expected.results.drop_columns("processed_at")
        chain.append(machine.delta(full=False))
        machine = Machine(p)
        machine.restore(chain)


def test_a_model_that_does_not_know_says_nothing_and_keeps_nothing() -> None:
    p = declared(None)
    rows, alerts = replay(p, table(p, film([DARK] * 30)))
    assert rows["in_domain"].null_count() == rows["unlike"].null_count() == 30 and not alerts
    assert Machine(p).signature == Machine(declared(Bright())).signature, "a model that knows may take over its state"
