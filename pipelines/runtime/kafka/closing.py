"""Closes resources when a later setup step fails. Their threads and connections would otherwise stay."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger(__name__)


class Closeable(Protocol):
    """Anything that holds connections or threads."""

    def close(self) -> None: ...


@contextmanager
def closed_on_error(*resources: Closeable) -> Iterator[None]:
    """Close `resources` if the block fails, and raise the block's own error."""
    try:
        yield
    except BaseException:
        for resource in resources:
            try:
                resource.close()
            except Exception:
                log.warning("%s could not be closed", type(resource).__name__, exc_info=True)
        raise
