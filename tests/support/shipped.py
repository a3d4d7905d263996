"""What comes with Tocsin: a pipeline a line. Tests of the commands, the contracts and the registry go through these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path


@dataclass(frozen=True)
class Shipped:
    """A pipeline that comes with Tocsin.

    Args:
        topic: its input.
        constant: the constant of its model's module that names the folder of its weights.
        labelled: labels that arrive later are scored.
        in_context: its rows are joined with intervals.
    """

    topic: str
    constant: str
    labelled: bool = False
    in_context: bool = False


PIPELINES = {
    "alignment": Shipped("video.rigs", "SHIPPED"),
    "damage": Shipped("video.inspection", "SHIPPED", labelled=True),
    "field": Shipped("sensors.field", "HALLS"),
    "irradiance": Shipped("sensors.weather", "SITES"),
    "occupancy": Shipped("sensors.occupancy", "OFFICES", labelled=True, in_context=True),
    "pose": Shipped("video.pose", "SHIPPED"),
    "quality": Shipped("sensors.plant", "PLANTS"),
    "rul": Shipped("sensors.industrial", "FD001", labelled=True, in_context=True),
    "surprise": Shipped("video.underwater", "SHIPPED", labelled=True),
    "tampering": Shipped("video.cameras", "SHIPPED", labelled=True),
    "touch": Shipped("video.egocentric", "SHIPPED", labelled=True),
}


def weights(name: str) -> Path:
    """The folder of a pipeline's shipped weights."""
    folder = getattr(import_module(f"tocsin.models.{name}.model"), PIPELINES[name].constant)
    assert isinstance(folder, Path)
    return folder


def refusal(name: str, beside: Iterable[str] = ()) -> str:
    """How the line begins that refuses a pipeline that nobody declared; `beside`: those that the settings declare."""
    return f"pipeline {name}: expected one of {', '.join(sorted({*PIPELINES, *beside}))}, got another name"
