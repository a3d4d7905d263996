"""Trained models that a benchmark keeps, so that a run that was stopped goes on from there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from tocsin.models.trained import CONFIG_FILE


class Model(Protocol):
    """What has a folder of its own on disk."""

    def save(self, directory: Path) -> None: ...


M = TypeVar("M", bound=Model)


def kept(folder: Path, fit: Callable[[], M], load: Callable[[Path], M]) -> M:
    """The model in a folder, trained if there is none yet; says on stderr how long that took."""
    if not (folder / CONFIG_FILE).exists():
        started = time.monotonic()
        fit().save(folder)
        print(f"{folder.name}: fitted in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return load(folder)
