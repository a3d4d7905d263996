"""What formats with a schema registry share: Confluent's wire format, and how a value becomes a field's."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.formats.message import MessageFormat
from tocsin.pipelines.runtime.formats.rows import DecodedPoll, RejectedError, RowSchema
from tocsin.pipelines.runtime.formats.schema_registry import RegisteredSchema, SchemaRegistry

SECTION = "schema_registry"
MAGIC = 0
"""The first byte of a message in Confluent's wire format. A schema's id of four bytes follows."""
_HEAD = struct.Struct(">bi")

T = TypeVar("T")
Path = tuple[str, ...]
Decode = Callable[[bytes], Mapping[str, Any]]
"""Decodes what follows a schema's id: a row's fields by name, as `MessageFormat.parse` gives them."""
Convert = Callable[[Any], Any]
"""From a decoded value to one that `RowSchema.row` takes."""
Converters = list[tuple[str, Path, Convert]]


class RegistryFormat(MessageFormat):
    """A format whose messages name their schema in a registry: one row a message, in Confluent's wire format.

    Subclasses make a decoder for each schema. A message whose schema is unknown or does not fit the pipeline is rejected. While
    the registry does not answer, nothing is rejected: the poll is read again.

    Args:
        expected, max_rows: as for `MessageFormat`.
        options: of `SchemaRegistry`.
    """

    section = SECTION
    kind: ClassVar[str]
    """The schema's type, by the registry's name."""
    package: ClassVar[tuple[str, str]]
    """The module that decodes, and the package that has it."""

    def __init__(self, expected: RowSchema, max_rows: int, **options: Any) -> None:
        super().__init__(expected, max_rows)
        self.require()
        self.registry = SchemaRegistry(**options)
        self._decoders = dict[int, Decode | RejectedError]()

    @classmethod
    def require(cls) -> None:
        """Raise unless the package that decodes is installed.

        Raises:
            ConfigError: it is not.
        """
        module, package = cls.package
        if not _is_installed(module):
            raise ConfigError(
                f"[{SECTION}]: expected the package {package}, got none; install it: pip install 'tocsin[registry]'"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the decoders, which cannot be sent to another process."""
        return vars(self) | {"_decoders": {}}

    def decoder(self, schema: RegisteredSchema) -> Decode:
        """A decoder for messages with this schema.

        Raises:
            RejectedError: the schema is broken, or does not fit what is expected.
            Unavailable: the registry does not answer.
        """
        raise NotImplementedError

    @classmethod
    def only(cls, value: bytes, row: int) -> bytes:
        """The message itself, since it is one row."""
        return value

    def read(self, values: Sequence[bytes | None], positions: Sequence[int], out: DecodedPoll) -> None:
        """Decode the values at `positions` of a poll. A rejection is of the whole message."""
        found = DecodedPoll()
        super().read(values, positions, found)
        out.pieces += found.pieces
        out.rejected += [(position, None, reason) for position, _, reason in found.rejected]

    def parse(self, value: bytes) -> Iterable[Mapping[str, Any]]:
        """The row of a message."""
        if len(value) < _HEAD.size or value[0] != MAGIC:
            raise ValueError(f"bytes that do not begin with {MAGIC} and a schema's id: {value[: _HEAD.size].hex(' ')}")
        _, id = _HEAD.unpack_from(value)
        yield self._decoder(id)(value[_HEAD.size :])

    def _decoder(self, id: int) -> Decode:
        if (found := self._decoders.get(id)) is None:
            schema = self.registry.schema(id)
            try:
                if schema.kind != self.kind:
                    raise RejectedError(
                        "SchemaMismatch",
                        f"schema {id}: expected type {self.kind}, as the content type says, got {schema.kind}",
                    )
                found = self.decoder(schema)
            except RejectedError as reason:
                if reason.error != "SchemaMismatch":  # an unknown one may be registered later
                    raise
                found = reason.alone()
            self._decoders[id] = found
        if isinstance(found, RejectedError):
            raise RejectedError(found.error, found.message)
        return found


def _is_installed(module: str) -> bool:
    with suppress(ModuleNotFoundError):  # its own package is missing
        return importlib.util.find_spec(module) is not None
    return False


class Fields(Generic[T]):
    """The fields of a schema that a pipeline expects. Each has a type of the schema's own, `T`.

    Args:
        id: the schema's.
        expected: what a row must be. The name `motor.speed` is the field `speed` of the record `motor`.
        top: the schema's own fields, without those of records in it.
        find: the type of the field at a path; None: there is none.

    Raises:
        RejectedError: a required field is missing, or there is a forbidden one.
    """

    def __init__(self, id: int, expected: RowSchema, top: Iterable[str], find: Callable[[Path], T | None]) -> None:
        self._id, self._expected = id, expected
        self.found = {name: kind for name in expected.schema.names if (kind := find(path_of(name))) is not None}
        used = {path_of(name)[0] for name in expected.schema.names}
        try:
            expected.check_names([*self.found, *(name for name in top if name not in used)])
        except RejectedError as reason:
            raise RejectedError(reason.error, f"schema {id}: {reason.message}") from None

    def converters(self, convert: Callable[[pa.Field, T], Convert | None], describe: Callable[[T], str]) -> Converters:
        """Each field's name, its path, and the function that converts its values.

        Args:
            convert: gives that function; None: no value of this type fits the field.
            describe: a type, for error messages.

        Raises:
            RejectedError: a field has a type that does not fit.
        """
        made = []
        for name, _, _, description in self._expected.fields:
            if name not in self.found:
                continue
            if (function := convert(self._expected.schema.field(name), kind := self.found[name])) is None:
                where = f"schema {self._id}: field {name}"
                raise RejectedError("SchemaMismatch", f"{where}: expected {description}, got {describe(kind)}")
            made.append((name, path_of(name), function))
        return made


def path_of(name: str) -> Path:
    """The steps to a field."""
    return tuple(name.split("."))


def unchanged(value: Any) -> Any:
    """The converter of values that `RowSchema.row` takes as they are."""
    return value


def instant(count: int, per_second: int) -> int | str:
    """A time for `RowSchema.row`: whole milliseconds since 1970 as a number, anything finer as RFC 3339 text.

    Args:
        count: since 1970 UTC.
        per_second: its unit, such as 1_000_000 for microseconds.
    """
    ms, finer = divmod(count * 1000, per_second)
    if not finer:
        return ms
    seconds, fraction = divmod(count, per_second)
    try:
        clock = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):  # no calendar has it, so the row is rejected
        return ms
    digits = len(str(per_second)) - 1
    return f"{clock:%Y-%m-%dT%H:%M:%S}.{fraction:0{digits}d}Z"
