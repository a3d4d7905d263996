"""Object stores that Arrow and Delta do not support by address."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from tocsin.pipelines.runtime.declare.extension import extension

if TYPE_CHECKING:
    from pyarrow import fs

GROUP = "tocsin.object_stores"


class ObjectStore:
    """An object store that holds a lake. Subclass it and name the class in `lake.store`; addresses are then the store's own.

    Two libraries access the lake: Delta's for the tables, Arrow's for all other files. A store tells each of them how to connect.
    It must not show a file before the file is complete.
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
        ConfigError: there is no such store.
    """
    store: ObjectStore = extension(name, group=GROUP, where="lake.store")()
    return store
