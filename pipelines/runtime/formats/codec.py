"""The codec turns one Kafka poll into one Arrow batch; records that cannot be read become dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable, Undecoded
from tocsin.pipelines.runtime.declare.fields import END_MS, unit_meant
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY
from tocsin.pipelines.runtime.declare.records import Headers, Readable, Records
from tocsin.pipelines.runtime.formats.arrow import Arrow
from tocsin.pipelines.runtime.formats.avro import Avro
from tocsin.pipelines.runtime.formats.headers import HeaderFields, source
from tocsin.pipelines.runtime.formats.jpeg import PIXELS, WHOLE, FrameReader
from tocsin.pipelines.runtime.formats.json import Json
from tocsin.pipelines.runtime.formats.message import MessageFormat, installed
from tocsin.pipelines.runtime.formats.protobuf import Protobuf
from tocsin.pipelines.runtime.formats.rows import DecodedPoll, RejectedError, RowSchema, media_type, show

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline

BUILT_IN: tuple[type[MessageFormat], ...] = (Json, Arrow, Avro, Protobuf)
MAX_BYTES, MAX_ROWS = 16 << 20, 1_000_000
"""The size of a value, and of a stream once decoded; and the rows in a message."""
FormatOptions = Mapping[str, Mapping[str, Any]]
"""Options of formats by the section of the settings that holds them; they may be secret."""
UNKNOWN = -1
"""The timestamp of a record that has none."""


def accepted(formats: Sequence[type[MessageFormat]], options: FormatOptions | None = None) -> list[type[MessageFormat]]:
    """The formats that a topic's values may have: built in, of installed packages, and `formats`. The last of a name counts.

    Args:
        options: of formats, by their section; formats whose section is not there are left out. None: all formats.
    """
    kinds = dict.fromkeys([*BUILT_IN, *installed(), *formats])
    return [kind for kind in kinds if options is None or not kind.section or kind.section in options]


class Codec:
    """Turns the records of one topic into Arrow batches.

    The header `content-type` names a value's format: `application/json`, one object, one row;
    `application/vnd.apache.arrow.stream`, an Arrow IPC stream, many rows; or another `MessageFormat`. Header names and media
    types may be in any case; a media type may have parameters and may be an alias. Without the header, the value is of the
    pipeline's `content_type`. A record, or a row of a stream, that does not
    match the schema exactly becomes a dead letter. Nothing is guessed and nothing is dropped silently:

    - a field that is not nullable must be present and not null; no number may be NaN, infinite or out of range;
    - numbers, strings and booleans are not converted to each other. A float field accepts an integer; an integer field and a
      time accept a whole number written as a float (`7.0`, below 2**53);
    - times are RFC 3339 strings with an offset (`2026-01-31T12:00:00.5+01:00`) or integers, milliseconds since
      1970 UTC, from 1700 to 2199; digits finer than the schema's unit are cut off;
    - Kafka's own timestamp must be a valid time, too: a record with a negative one (except -1, no timestamp), or one from 2200
      on, is refused as a whole;
    - a repeated key in an object, or a repeated column in a stream, is refused, since it is unknown which one counts;
    - a field whose metadata has `{"from": "header:<name>"}` is read from the record's last header of that name: text, or a time,
      number or boolean as JSON writes it. One with `{"from": "value"}` is the JSON value itself, as text;
    - a stream has the schema's fields in any order and in any type that holds the values, dictionary-encoded or not. It ends
      with its end mark. With more than 100 bad rows it is refused as a whole.

    A topic whose schema has `frame_fields` holds only frames; see `FrameReader`. The other fields are in headers.

    Args:
        topic: the topic's name, for error messages.
        schema: a row's fields, at least one of them from the value: float, double, integers, bool, string,
            `timestamp("ms"|"us"|"ns", "UTC")`.
        unknown: "ignore" fields outside the schema, or "reject" readings that have them.
        max_bytes: largest value, and largest stream once decoded, bytes.
        max_rows: most rows in a message.
        formats: additional message formats; those of installed packages are always included.
        content_type: the media type of values without the header.
        options: of formats, by their `section` of the settings.

    Raises:
        ConfigError: the schema has no field from the value, a repeated field, or a field named as an identity column or of
            another type; or there is no format of that content type.
    """

    def __init__(
        self,
        *,
        topic: str,
        schema: pa.Schema,
        unknown: Literal["ignore", "reject"] = "ignore",
        max_bytes: int = MAX_BYTES,
        max_rows: int = MAX_ROWS,
        formats: Sequence[type[MessageFormat]] = (),
        content_type: str = Json.media_type,
        options: FormatOptions = MappingProxyType({}),
    ) -> None:
        if not schema or len({*schema.names, *IDENTITY.names}) < len(schema) + len(IDENTITY):
            raise ConfigError(
                f"{topic}: expected a schema of distinct fields, none of them {', '.join(IDENTITY.names)}, "
                f"got {schema.names}; rename the fields"
            )
        self.schema = schema
        self.batch_schema = pa.schema([*IDENTITY, *schema])
        body = pa.schema([f for f in schema if source(f) is None])
        images = [f for f in schema if source(f) in (PIXELS, WHOLE)]
        if images and body:
            raise ConfigError(
                f"{topic}: expected all fields of a frame from headers, got {body.names} from the value; "
                'set their metadata to {"from": "header:<name>"}'
            )
        if not body and not images:
            raise ConfigError(
                f"{topic}: expected at least one of {schema.names} to be read from the value, got none; add a field"
            )
        self._envelope = HeaderFields(topic, schema) if len(body) < len(schema) else None
        self._frames = FrameReader(topic, images, max_bytes) if images else None
        expected = RowSchema(topic, body, unknown, max_bytes)
        kinds = accepted(formats, options)
        self._formats = [kind(expected, max_rows, **options.get(kind.section, {})) for kind in kinds]
        self._json = self._formats[0]
        self._by_type = {name: format for format in self._formats for name in (format.media_type, *format.aliases)}
        self._sections = {name: kind.section for kind in accepted(formats) for name in (kind.media_type, *kind.aliases)}
        if content_type not in self._by_type:
            raise ConfigError(f"{topic}: {self._unknown(content_type)}")
        self._default = self._by_type[content_type]

    @classmethod
    def of(cls, pipeline: Pipeline, options: FormatOptions = MappingProxyType({})) -> Codec:
        """The codec of a pipeline's topic.

        Args:
            options: of formats, by their section of the settings.
        """
        return cls(
            topic=pipeline.topic,
            schema=pipeline.schema,
            unknown=pipeline.unknown,
            formats=pipeline.formats,
            content_type=pipeline.content_type,
            options=options,
        )

    def decode(self, records: Records | Sequence[Readable]) -> tuple[pa.RecordBatch, list[DeadLetter]]:
        """Decode the records of one poll.

        Args:
            records: records of this topic, from any partitions, with undecoded bytes as keys and values.

        Returns:
            A batch of `batch_schema` (identity columns, then the schema's) in the order of the records and of the
            rows inside them, and the dead letters in the same order. Its size is bounded by `max_bytes` a record.

        Raises:
            Undecoded: something that a format needs does not answer. No record has been decoded.
        """
        records = records if isinstance(records, Records) else Records.of(records)
        out = DecodedPoll()
        if self._frames:
            self._frames.read(records, out)
        else:
            try:
                self._read(records, out)
            except Unavailable as reason:
                raise Undecoded(str(reason)) from reason
        if self._envelope:
            self._envelope.add(records, out)
        stamps = records.timestamps
        out.refuse(
            {i: _timeless(int(stamps[i])) for i in np.flatnonzero((stamps < UNKNOWN) | (stamps >= END_MS)).tolist()}
        )
        out.rejected.sort(key=lambda rejected: rejected[0])
        dead_letters = [
            DeadLetter.of(records[i], stage="decode", error=why.error, message=why.message, row=row)
            for i, row, why in out.rejected
        ]
        return self._batch(records, out), dead_letters

    def _read(self, records: Records, out: DecodedPoll) -> None:
        """Decode a poll's values, each by its content type."""
        values, headers = records.values, records.headers
        formats = {h: self._format(h) for h in records.header_sets}
        indices, others = range(len(records)), dict[int, MessageFormat | None]()
        if not all(kind is self._json for kind in formats.values()):
            others = {i: kind for i, h in enumerate(headers) if (kind := formats[tuple(h)]) is not self._json}
        self._json.read(values, [i for i in indices if i not in others] if others else indices, out)
        for format in self._formats[1:]:
            if positions := [i for i, kind in others.items() if kind is format]:
                format.read(values, positions, out)
        for i in [i for i, kind in others.items() if kind is None]:
            message = self._unknown(media_type(headers[i]))
            out.rejected.append((i, None, RejectedError("UnknownContentType", message)))

    def _unknown(self, content_type: str | None) -> str:
        """What is wrong with a content type that no format has."""
        known = " or ".join(format.media_type for format in self._formats)
        section = self._sections.get(content_type or "")
        advice = f"; set [{section}] to read it" if section else ""
        return f"expected content-type {known}, got {show(content_type)}{advice}"

    def _format(self, headers: Headers) -> MessageFormat | None:
        """A message's format: the default if its headers name none, None if the named one is unknown."""
        kind = media_type(headers)
        if kind is None:
            return self._default
        return self._json if kind.endswith("+json") else self._by_type.get(kind)

    def _batch(self, records: Records, out: DecodedPoll) -> pa.RecordBatch:
        """Join the pieces in order, and add each row's identity columns."""
        if not out.pieces:
            return pa.record_batch([pa.array([], f.type) for f in self.batch_schema], schema=self.batch_schema)
        positions = np.concatenate([piece[0] for piece in out.pieces])
        rows = np.concatenate([piece[1] for piece in out.pieces])
        payload = out.pieces[0][2]
        if len(out.pieces) > 1:
            payload = [pa.concat_arrays(parts) for parts in zip(*(piece[2] for piece in out.pieces), strict=True)]
        times = records.timestamps[positions]
        identity = [
            records.partitions[positions].astype(np.int32),
            records.offsets[positions],
            rows.astype(np.int32),
            pa.array(times, IDENTITY.field("_timestamp").type, mask=times == UNKNOWN),
        ]
        batch = pa.record_batch([*identity, *payload], schema=self.batch_schema)
        return batch if len(out.pieces) == 1 else batch.take(pa.array(np.argsort(positions, kind="stable")))


def _timeless(stamp: int) -> RejectedError:
    """Why a record with this Kafka timestamp is refused: it gives neither a clock nor a date."""
    expected = "milliseconds since 1970, up to 2199, or -1 for none"
    return RejectedError("BadTimestamp", f"Kafka's timestamp: expected {expected}, got {stamp}{unit_meant(stamp)}")
