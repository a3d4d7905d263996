"""A lake on whose file system some things are refused, as a locked, a shared or a foreign folder refuses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyarrow import fs

from tocsin.pipelines.runtime.lake.storage import Lake

Refuses = Callable[[str], OSError | None]


class Denied(fs.SubTreeFileSystem):
    """Refuses to delete folders and, by "list", to list them."""

    refuses: Refuses

    def delete_dir(self, path: str) -> None:
        if reason := self.refuses(path):
            raise reason
        super().delete_dir(path)

    def get_file_info(self, asked: Any) -> Any:
        if isinstance(asked, fs.FileSelector) and (reason := self.refuses("list")):
            raise reason
        return super().get_file_info(asked)


def deny(monkeypatch: pytest.MonkeyPatch, refuses: Refuses) -> None:
    """Have every lake refuse from now on.

    Args:
        refuses: a path -> the error, or None; of "list": to list a folder.
    """

    def files(lake: Lake) -> Denied:
        made = Denied(str(lake.folder), fs.LocalFileSystem())
        made.refuses = refuses
        return made

    monkeypatch.setattr(Lake, "files", property(files))
