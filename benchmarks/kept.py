"""Trained models that a benchmark stores, so that an interrupted run can resume."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from tocsin.models.trained import CONFIG_FILE


class Model(Protocol):
    """A model that can be saved to a folder."""

    def save(self, directory: Path) -> None: ...


M = TypeVar("M", bound=Model)


def load_or_fit(folder: Path, fit: Callable[[], M], load: Callable[[Path], M]) -> M:
    """Load the model in a folder. If there is none, train and save it first, and print the training time to stderr."""
    if not (folder / CONFIG_FILE).exists():
        started = time.monotonic()
        fit().save(folder)
        print(f"{folder.name}: fitted in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return load(folder)
