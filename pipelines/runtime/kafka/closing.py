"""Half-made things closed when what was to follow fails: their threads and connections would outlive them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger(__name__)


class Closes(Protocol):
    """Anything that holds connections or threads."""

    def close(self) -> None: ...


@contextmanager
def closed_on_error(*things: Closes) -> Iterator[None]:
    """Close `things` if the block fails; its own error is the one that is raised."""
    try:
        yield
    except BaseException:
        for thing in things:
            try:
                thing.close()
            except Exception:
                log.warning("%s could not be closed", type(thing).__name__, exc_info=True)
        raise
