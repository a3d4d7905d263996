"""Labelled pictures: folders whose names say what the pictures in them show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tocsin.models.damage.network import CLASSES
from tocsin.models.folders import listed
from tocsin.models.vision.picture import decode
from tocsin.models.vision.video import PICTURES

FOLDERS = {
    "intact": (
        *("intact", "healthy", "undamaged", "sound", "normal", "negative", "no damage", "nodamage", "nondamaged"),
        *("no crack", "no cracks", "nocrack", "noncrack", "non crack", "noncracked", "non cracked", "uncracked"),
    ),
    "crack": ("crack", "cracks", "cracked", "positive"),
    "spalling": ("spalling", "spall", "spalls", "spalled"),
    "efflorescence": ("efflorescence", "efflorescences", "salt", "salts", "salt damage", "saltdamage"),
}
"""Names of folders by what the pictures in them show; case, `_` and `-` do not matter."""
_KINDS = {name: kind for kind, names in FOLDERS.items() for name in names}
HELD = 0.2
"""Share of a folder's pictures, the last ones by name, on which models are validated: neighbours often show the same wall."""


@dataclass(frozen=True)
class Labelled:
    """A picture and what it shows, one of `CLASSES`."""

    path: Path
    kind: str

    @property
    def number(self) -> int:
        """The place of its class in `CLASSES`."""
        return CLASSES.index(self.kind)

    def read(self) -> NDArray[np.uint8]:
        """The picture `[H, W, 3]` RGB.

        Raises:
            ValueError: the file is not a whole picture.
        """
        try:
            return decode(self.path.read_bytes())
        except ValueError as reason:
            raise ValueError(f"{self.path}: {reason}; remove it, or replace it with a whole one") from None


def labelled(folder: Path) -> tuple[list[Labelled], int]:
    """The pictures in a folder's subfolders, at any depth, whose names are in `FOLDERS`, and how many lie elsewhere in it.

    Raises:
        ValueError: there are none.
    """
    every = list(_within(folder, None))
    found = [Labelled(path, kind) for path, kind in every if kind]
    if not found:
        names = ", ".join(name for names in FOLDERS.values() for name in names[:1])
        raise ValueError(
            f"{folder}: expected folders of pictures such as {names}, got none; sort the pictures into them"
        )
    return found, len(every) - len(found)


def _within(folder: Path, kind: str | None) -> Iterator[tuple[Path, str | None]]:
    kind = _KINDS.get(folder.name.lower().replace("_", " ").replace("-", " "), kind)
    for entry in listed(folder):
        if entry.is_dir():
            yield from _within(entry, kind)
        elif entry.suffix.lower() in PICTURES:
            yield entry, kind


def held_back(pictures: list[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Pictures to train on, and to validate on: the last of each folder."""
    folders: dict[Path, list[Labelled]] = {}
    for picture in pictures:
        folders.setdefault(picture.path.parent, []).append(picture)
    ends = {folder: len(inside) - max(1, round(HELD * len(inside))) for folder, inside in folders.items()}
    first = [p for folder, inside in folders.items() for p in inside[: ends[folder]]]
    return first, [p for folder, inside in folders.items() for p in inside[ends[folder] :]]
