"""Message formats: how the values of one content type become rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, ClassVar

import numpy as np

from tocsin.pipelines.runtime.formats.rows import DecodedPoll, RejectedError, RowSchema, show

GROUP = "tocsin.formats"
"""The group of entry points whose formats every pipeline reads."""
MAX_BAD_ROWS = 100
"""A message with more bad rows becomes one dead letter: a million letters would not fit a transaction."""


class MessageFormat:
    """A message format. Subclasses override `parse`, or `read` to decode a whole poll at once.

    A pipeline reads the formats that its declaration names (`Pipeline.formats`), and those of installed packages with an entry
    point in the group `tocsin.formats`.

    Args:
        expected: what a row must be.
        max_rows: the most rows in one message.
    """

    media_type: ClassVar[str]
    """The value of the header `content-type`, in lower case and without parameters."""
    aliases: ClassVar[Sequence[str]] = ()
    """Other values of the header for the same format."""

    def __init__(self, expected: RowSchema, max_rows: int) -> None:
        self.expected, self.max_rows = expected, max_rows

    def parse(self, value: bytes) -> Iterable[Mapping[str, Any]]:
        """The rows of one message, fields by name: numbers, text, booleans, None; times as RFC 3339 text or ms since 1970.

        Raises:
            ValueError: the value is not of this format; the error's text goes into the dead letter.
        """
        raise NotImplementedError

    @classmethod
    def only(cls, value: bytes, row: int) -> bytes | None:
        """The message with only one of its rows, for `tocsin dlq replay`; None: this format cannot be cut."""
        return None

    def read(self, values: Sequence[bytes | None], positions: Sequence[int], out: DecodedPoll) -> None:
        """Decode the values at `positions` of a poll into `out`: the rows, and the rejections with their reasons."""
        for position in positions:
            try:
                rows = list(self._rows(values[position]))
            except RejectedError as reason:
                out.rejected.append((position, None, reason.alone()))
                continue
            cells, places, bad = [], [], list[tuple[int, RejectedError]]()
            for place, row in enumerate(rows):
                try:
                    cells.append(self.expected.row(row))
                    places.append(place)
                except RejectedError as reason:
                    bad.append((place, reason.alone()))
            if len(bad) > MAX_BAD_ROWS:
                place, first = bad[0]
                summary = f"{len(bad)} of {len(rows)} rows are bad; the first, row {place}: {first.message}"
                out.rejected.append((position, None, RejectedError(first.error, summary)))
                continue
            out.rejected += [(position, place, reason) for place, reason in bad]
            if cells:
                positions_of = np.full(len(cells), position, np.int64)
                out.pieces.append((positions_of, np.array(places, np.int64), self.expected.columns(cells)))

    def _rows(self, value: bytes | None) -> Iterable[Mapping[str, Any]]:
        content = self.expected.content(value)
        try:
            rows = list(self.parse(content))
        except ValueError as reason:
            raise RejectedError("Malformed", f"expected {self.media_type}, got {reason}") from None
        if not rows:
            raise RejectedError("EmptyValue", "expected rows, got an empty message")
        if len(rows) > self.max_rows:
            raise RejectedError("TooLarge", f"expected at most {self.max_rows} rows, got {len(rows)}")
        for row in rows:
            if not isinstance(row, Mapping):
                raise RejectedError("Malformed", f"expected {self.media_type}, got {show(row)} for a row")
        return rows


def installed() -> list[type[MessageFormat]]:
    """The formats of installed packages, by their entry points."""
    return [entry.load() for entry in entry_points(group=GROUP)]
