"""A lake on a file system that refuses some operations, like a locked, shared or foreign folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyarrow import fs

from tocsin.pipelines.runtime.lake.storage import Lake

Refuses = Callable[[str], OSError | None]


class Denied(fs.SubTreeFileSystem):
    """A file system that refuses to delete folders, and to list them if `refuses("list")` returns an error."""

    refuses: Refuses

    def delete_dir(self, path: str) -> None:
        if reason := self.refuses(path):
            raise reason
        super().delete_dir(path)

    def get_file_info(self, selector: Any) -> Any:
        if isinstance(selector, fs.FileSelector) and (reason := self.refuses("list")):
            raise reason
        return super().get_file_info(selector)


def deny(monkeypatch: pytest.MonkeyPatch, refuses: Refuses) -> None:
    """Make every lake refuse operations from now on.

    Args:
        refuses: maps the path of a folder to delete, or "list" for listing a folder, to an error or None.
    """

    def files(lake: Lake) -> Denied:
        denied = Denied(str(lake.folder), fs.LocalFileSystem())
        denied.refuses = refuses
        return denied

    monkeypatch.setattr(Lake, "files", property(files))
