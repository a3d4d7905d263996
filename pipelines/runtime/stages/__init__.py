"""Stages that any pipeline can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tocsin.pipelines.exports import exported

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.stages.census import Census
    from tocsin.pipelines.runtime.stages.centered_window import CenteredWindow
    from tocsin.pipelines.runtime.stages.familiar import Familiar
    from tocsin.pipelines.runtime.stages.frames import Gaps, Keep, Pixels
    from tocsin.pipelines.runtime.stages.impute import Impute
    from tocsin.pipelines.runtime.stages.in_context import InContext
    from tocsin.pipelines.runtime.stages.inactivity import Inactivity
    from tocsin.pipelines.runtime.stages.infer import Encode, Infer
    from tocsin.pipelines.runtime.stages.pair import Pair
    from tocsin.pipelines.runtime.stages.quality import Quality
    from tocsin.pipelines.runtime.stages.reorder import Reorder
    from tocsin.pipelines.runtime.stages.resample import Resample
    from tocsin.pipelines.runtime.stages.site import Site
    from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

__all__ = [
    "Census",
    "CenteredWindow",
    "Encode",
    "Familiar",
    "Gaps",
    "Impute",
    "InContext",
    "Inactivity",
    "Infer",
    "Keep",
    "Pair",
    "Pixels",
    "Quality",
    "Reorder",
    "Resample",
    "Site",
    "SlidingWindow",
]

__getattr__ = exported(
    __name__,
    {
        "census": "Census",
        "centered_window": "CenteredWindow",
        "familiar": "Familiar",
        "frames": "Gaps Keep Pixels",
        "impute": "Impute",
        "in_context": "InContext",
        "inactivity": "Inactivity",
        "infer": "Encode Infer",
        "pair": "Pair",
        "quality": "Quality",
        "reorder": "Reorder",
        "resample": "Resample",
        "site": "Site",
        "sliding_window": "SlidingWindow",
    },
)
