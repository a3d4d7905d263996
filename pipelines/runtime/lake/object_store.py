"""Object stores of other kinds than Arrow and Delta know by their addresses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from tocsin.pipelines.runtime.declare.extension import extension

if TYPE_CHECKING:
    from pyarrow import fs

GROUP = "tocsin.object_stores"


class ObjectStore:
    """Where a lake lies. Subclass it and name the class in the settings, `lake.store`; addresses are then the store's own.

    Two libraries reach the lake: Delta's for the tables, Arrow's for all other files. A store says how each of them gets there. It
    must show a file when it is whole, not before.
    """

    def delta(self, root: str) -> tuple[str, Mapping[str, str]]:
        """The lake's address as Delta opens it, and Delta's options for it, such as keys.

        Args:
            root: `lake.path` of the settings.
        """
        raise NotImplementedError

    def files(self, root: str) -> tuple[fs.FileSystem, str]:
        """Arrow's file system, and the lake's folder in it."""
        raise NotImplementedError


@cache
def object_store(name: str) -> ObjectStore:
    """The store that `lake.store` names: `module:Class`, or an entry point of `tocsin.object_stores`.

    Raises:
        ConfigError: there is none.
    """
    made: ObjectStore = extension(name, group=GROUP, where="lake.store")()
    return made
