"""The types that a result column may have: Delta stores them, Polars reads them back unchanged, and an alert can carry them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as types

from tocsin.pipelines.runtime.declare.errors import ConfigError

_SUGGESTIONS = (
    (types.is_duration, "a number of seconds (float64) or milliseconds (int64)"),
    (types.is_unsigned_integer, "a wider signed integer"),
    (types.is_float16, "float32"),
    (types.is_timestamp, "a timestamp in ms or us, without a time zone or in UTC"),
    (types.is_date64, "date32"),
    (types.is_time, "text or a number of seconds"),
    (types.is_decimal, "decimal128"),
    (types.is_fixed_size_list, "list_"),
    (types.is_list_view, "list_"),
    (types.is_large_list_view, "list_"),
    (types.is_string_view, "string"),
    (types.is_binary_view, "binary"),
    (types.is_dictionary, "string"),
    (types.is_null, "the type of its values"),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), "its storage type"),
)


def check(where: str, results: pa.Schema) -> None:
    """Refuse a result column that Delta cannot store, Polars cannot read back or an alert cannot carry.

    Raises:
        ConfigError: there is such a column; the error names the first one.
    """
    for field in results:
        if unsupported := _unsupported(field.type):
            part = "" if unsupported == field.type else f" containing {unsupported}"
            replacement = next(
                (suggestion for test, suggestion in _SUGGESTIONS if test(unsupported)),
                "numbers, text, lists or structs",
            )
            raise ConfigError(
                f"{where}: result column {field.name}: expected a type that Delta stores and Polars reads, got {field.type}{part}; "
                f"convert it to {replacement}"
            )


def _unsupported(kind: pa.DataType, *, inside: bool = False) -> pa.DataType | None:
    """The type, or the part of it, that a result column cannot have; None if the whole type fits."""
    if types.is_struct(kind):
        return next((unsupported for part in kind if (unsupported := _unsupported(part.type, inside=True))), None)
    if types.is_map(kind):
        return _unsupported(kind.key_type, inside=True) or _unsupported(kind.item_type, inside=True)
    if types.is_list(kind) or types.is_large_list(kind):
        return _unsupported(kind.value_type, inside=True)
    if types.is_timestamp(kind):
        fits = kind.unit in ("ms", "us") and kind.tz in (None, "UTC")
    elif types.is_dictionary(kind):
        fits = not inside and (types.is_string(kind.value_type) or types.is_large_string(kind.value_type))
    else:
        fits = any(
            test(kind)
            for test in (
                *(types.is_boolean, types.is_signed_integer, types.is_float32, types.is_float64, types.is_date32),
                *(
                    types.is_string,
                    types.is_large_string,
                    types.is_binary,
                    types.is_large_binary,
                    types.is_fixed_size_binary,
                ),
                types.is_decimal128,
            )
        ) and not isinstance(kind, pa.BaseExtensionType)
    return None if fits else kind
