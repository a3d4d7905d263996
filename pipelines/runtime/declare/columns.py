"""The types that a result column may have: Delta stores them, Polars reads them back unchanged, and an alert can carry them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as of

from tocsin.pipelines.runtime.declare.errors import ConfigError

_INSTEAD = (
    (of.is_duration, "a number of seconds (float64) or milliseconds (int64)"),
    (of.is_unsigned_integer, "a wider signed integer"),
    (of.is_float16, "float32"),
    (of.is_timestamp, "a timestamp in ms or us, without a time zone or in UTC"),
    (of.is_date64, "date32"),
    (of.is_time, "text or a number of seconds"),
    (of.is_decimal, "decimal128"),
    (of.is_fixed_size_list, "list_"),
    (of.is_list_view, "list_"),
    (of.is_large_list_view, "list_"),
    (of.is_string_view, "string"),
    (of.is_binary_view, "binary"),
    (of.is_dictionary, "string"),
    (of.is_null, "the type of its values"),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), "its storage type"),
)


def check(where: str, results: pa.Schema) -> None:
    """Refuse a result column that Delta cannot store, Polars cannot read back or an alert cannot carry.

    Raises:
        ConfigError: there is such a column; the error names the first one.
    """
    for field in results:
        if wrong := _unfit(field.type):
            part = "" if wrong == field.type else f" containing {wrong}"
            instead = next((said for test, said in _INSTEAD if test(wrong)), "numbers, text, lists or structs")
            raise ConfigError(
                f"{where}: result column {field.name}: expected a type that Delta stores and Polars reads, got {field.type}{part}; "
                f"convert it to {instead}"
            )


def _unfit(kind: pa.DataType, *, inside: bool = False) -> pa.DataType | None:
    """The type, or the part of it, that a result column cannot have; None if the whole type fits."""
    if of.is_struct(kind):
        return next((wrong for part in kind if (wrong := _unfit(part.type, inside=True))), None)
    if of.is_map(kind):
        return _unfit(kind.key_type, inside=True) or _unfit(kind.item_type, inside=True)
    if of.is_list(kind) or of.is_large_list(kind):
        return _unfit(kind.value_type, inside=True)
    if of.is_timestamp(kind):
        fits = kind.unit in ("ms", "us") and kind.tz in (None, "UTC")
    elif of.is_dictionary(kind):
        fits = not inside and (of.is_string(kind.value_type) or of.is_large_string(kind.value_type))
    else:
        fits = any(
            test(kind)
            for test in (
                *(of.is_boolean, of.is_signed_integer, of.is_float32, of.is_float64, of.is_date32),
                *(of.is_string, of.is_large_string, of.is_binary, of.is_large_binary, of.is_fixed_size_binary),
                of.is_decimal128,
            )
        ) and not isinstance(kind, pa.BaseExtensionType)
    return None if fits else kind
