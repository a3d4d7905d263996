"""List folders of recordings: skip hidden files, accept suffixes in any case, and sort numbers by value."""

from __future__ import annotations

import re
from pathlib import Path


def listed(folder: Path, *suffixes: str) -> list[Path]:
    """List the entries of a folder, `frame2` before `frame10`; a file lists itself, and a missing path lists nothing.

    Hidden entries are skipped, such as the `._name` that macOS puts beside each file of a foreign disk; so are links to a folder
    that the folder lies in, which would be listed again and again.

    Args:
        suffixes: such as `.csv`, in lower case; they match in any case. Without any, all entries are listed.
    """
    entries = folder.iterdir() if folder.is_dir() else [folder] if folder.is_file() else []
    visible = (entry for entry in entries if not entry.name.startswith(".") and not _leads_back(entry, folder))
    return sorted((e for e in visible if not suffixes or e.suffix.lower() in suffixes), key=lambda e: natural(e.name))


def _leads_back(entry: Path, folder: Path) -> bool:
    return entry.is_symlink() and entry.is_dir() and folder.resolve().is_relative_to(entry.resolve())


def named(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, else one whose name differs only in case, else None."""
    if (exact := folder / name).is_file():
        return exact
    return next((entry for entry in listed(folder) if entry.name.lower() == name.lower() and entry.is_file()), None)


def natural(name: str) -> tuple[list[str | int], str]:
    """A sort key for names; numbers in them are ordered by value."""
    parts: list[str | int] = [*re.split(r"([0-9]+)", name.lower())]
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, name
