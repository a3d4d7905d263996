"""Message formats: how the values of one content type become rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.formats.rows import DecodedPoll, RejectedError, RowSchema, show

GROUP = "tocsin.formats"
"""The group of entry points whose formats every pipeline reads."""
MAX_BAD_ROWS = 100
"""A message with more bad rows becomes one dead letter: a million letters would not fit a transaction."""
PIECE_ROWS = 65_536
"""So many rows are converted together."""


class MessageFormat:
    """A message format. Subclasses override `parse`, or `read` to decode a whole poll at once.

    A pipeline reads the formats that its declaration names (`Pipeline.formats`), and those of installed packages with an entry
    point in the group `tocsin.formats`.

    Args:
        expected: what a row must be.
        max_rows: the most rows in one message.
        options: those of the settings' `section`, by name.
    """

    media_type: ClassVar[str]
    """The value of the header `content-type`, in lower case and without parameters."""
    aliases: ClassVar[Sequence[str]] = ()
    """Other values of the header for the same format."""
    section: ClassVar[str] = ""
    """The section of the settings that has the format's options; without such a section, nothing is read in this format."""

    def __init__(self, expected: RowSchema, max_rows: int, **options: Any) -> None:
        if options:
            raise ConfigError(f"{type(self).__name__}: expected no options, got {', '.join(options)}; remove them")
        self.expected, self.max_rows = expected, max_rows

    def parse(self, value: bytes) -> Iterable[Mapping[str, Any]]:
        """The rows of one message, fields by name: numbers, text, booleans, None; times as RFC 3339 text or ms since 1970.

        Raises:
            ValueError: the value is not of this format; the error's text goes into the dead letter.
            Unavailable: something that decoding needs does not answer. The poll is read again until it does.
        """
        raise NotImplementedError

    @classmethod
    def only(cls, value: bytes, row: int) -> bytes | None:
        """The message with only one of its rows, for `tocsin dlq replay`; None: this format cannot be cut."""
        return None

    def read(self, values: Sequence[bytes | None], positions: Sequence[int], out: DecodedPoll) -> None:
        """Decode the values at `positions` of a poll into `out`: the rows, and the rejections with their reasons."""
        rows, places = list[Mapping[str, Any]](), list[tuple[int, int]]()
        for position in positions:
            try:
                found = list(self._rows(values[position]))
            except RejectedError as reason:
                out.rejected.append((position, None, reason.alone()))
                continue
            rows += found
            places += [(position, row) for row in range(len(found))]
            if len(rows) >= PIECE_ROWS:
                self._add(rows, places, out)
                rows, places = [], []
        if rows:
            self._add(rows, places, out)

    def _add(self, rows: Sequence[Mapping[str, Any]], places: Sequence[tuple[int, int]], out: DecodedPoll) -> None:
        """Add the rows of some messages, converted together; `places` has each row's record and its index there."""
        columns = self.expected.columns_of(rows)
        if columns is not None and not self.expected.unusable(columns).any():
            out.pieces.append((*_indices(places), columns))
            return
        good, bad = list[tuple[tuple[int, int], list[Any]]](), defaultdict[int, list[tuple[int, RejectedError]]](list)
        for row, (position, place) in zip(rows, places, strict=True):
            try:
                good.append(((position, place), self.expected.row(row)))
            except RejectedError as reason:
                bad[position].append((place, reason.alone()))
        lengths = Counter(position for position, _ in places)
        for position, reasons in bad.items():
            if len(reasons) > MAX_BAD_ROWS:
                place, first = reasons[0]
                summary = f"{len(reasons)} of {lengths[position]} rows are bad; the first, row {place}: {first.message}"
                out.rejected.append((position, None, RejectedError(first.error, summary)))
            else:
                out.rejected += [(position, place, reason) for place, reason in reasons]
        if kept := [(place, cells) for place, cells in good if len(bad.get(place[0], ())) <= MAX_BAD_ROWS]:
            columns = self.expected.columns([cells for _, cells in kept])
            out.pieces.append((*_indices([place for place, _ in kept]), columns))

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


def _indices(places: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The records and the rows of places, `[N]` each."""
    return np.array([record for record, _ in places], np.int64), np.array([row for _, row in places], np.int64)


def installed() -> list[type[MessageFormat]]:
    """The formats of installed packages, by their entry points."""
    return [entry.load() for entry in entry_points(group=GROUP)]
