"""A `Reader` in its own process. Imported before anything heavy, because `begin` sets how heavy imports behave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tocsin.pipelines.runtime.telemetry.process import begin, import_pandas, imported

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.kafka.reader import Poll, Reader, TopicState


class ReaderProcess:
    """A `Reader` as a Ray actor. Its process starts and imports before it is known what to read.

    Args:
        env: see `begin`.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        begin(env)
        from tocsin.pipelines.runtime.kafka import reader

        imported()
        import_pandas()
        self._make: type[Reader] = reader.Reader
        self._reader: Reader

    def open(self, *arguments: Any) -> None:
        """Set what to read; the arguments are `Reader`'s."""
        self._reader = self._make(*arguments)

    def log(self, shards: int = 0) -> TopicState:
        return self._reader.log(shards)

    def seek(self, positions: Mapping[int, int]) -> None:
        self._reader.seek(positions)

    def poll(self, timeout_ms: int) -> Poll | None:
        return self._reader.poll(timeout_ms)

    def originals(self, offsets: Mapping[int, Any]) -> Any:
        return self._reader.originals(offsets)
