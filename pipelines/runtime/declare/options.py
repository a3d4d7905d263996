"""A pipeline's own options, typed: what `[pipelines.<name>]` may set besides the runtime's settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from tocsin.pipelines.runtime.declare.durations import milliseconds, size
from tocsin.pipelines.runtime.declare.errors import ConfigError

LARGEST = 2**53
"""No option is a number of this size; sums with it would leave 64 bits."""


def parsed(read: Callable[[str], Any], expected: str) -> BeforeValidator:
    """Check that `read` parses a text, which stays as it is.

    Args:
        expected: completes "expected ..." in the error.
    """

    def check(text: Any) -> Any:
        if not isinstance(text, str):
            raise _unexpected(expected)
        try:
            read(text)
        except (ConfigError, LookupError, ValueError) as reason:
            raise _unexpected(expected) from reason
        return text

    return BeforeValidator(check)


def _unexpected(expected: str) -> PydanticCustomError:
    return PydanticCustomError("unexpected", "Input should be {expected}", {"expected": expected})


def expectation(error: ErrorDetails) -> str:
    """What pydantic expected, to follow "expected"."""
    table = error["type"] in ("model_type", "dict_type")
    return re.sub(r"^Input should be |, (unable to|got a) .*", "", "a table of settings" if table else error["msg"])


def _lateness(value: Any) -> Any:
    try:
        if isinstance(value, str):
            milliseconds(value)
            return value
        if isinstance(value, bool) or int(value) != value:
            raise ValueError(value)
        return int(value)
    except (ConfigError, OverflowError, TypeError, ValueError) as reason:
        raise _unexpected("a whole number, or a duration such as 200ms") from reason


Duration = Annotated[str, parsed(milliseconds, "a duration such as 20ms, 5s, 15min, 2h, 30d")]
Lateness = Annotated[int | str, BeforeValidator(_lateness)]
"""How far readings may be out of order: a whole number in the unit of their event time, or a duration."""
Size = Annotated[str, parsed(size, "a size such as 512KB, 64MB, 1GB")]


class Options(BaseModel):
    """A pipeline's options. Subclass it: each field is an option, with its type and its default.

    Args:
        name: the pipeline's name.
        topic: the topic that it reads.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )

    name: str
    topic: str

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Self:
        """Check what a factory is given.

        Raises:
            ConfigError: an option is unknown or wrong. The error names the first one and the expected value.
        """
        try:
            return cls.model_validate(dict(options))
        except ValidationError as invalid:
            error = invalid.errors()[0]
        name_field = cls.model_fields["name"]
        default = cls.__name__ if name_field.is_required() else name_field.default
        place = [
            "pipelines",
            str(options.get("name", default)),
            *map(str, error["loc"]),
        ]
        if error["type"] == "extra_forbidden":
            expected = f"one of {', '.join(_known(cls, error['loc']))}"
            raise ConfigError(f"{'.'.join(place[:-1])}: expected {expected}, got {place[-1]}; correct tocsin.toml")
        if error["type"] == "missing":
            raise ConfigError(f"{'.'.join(place)}: expected a value, got none; set it in tocsin.toml")
        raise ConfigError(
            f"{'.'.join(place)}: expected {expectation(error)}, got {error['input']!r}; correct tocsin.toml"
        )

    @field_validator("*", mode="before")
    @classmethod
    def _no_odd_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true where a number is expected, which pydantic takes for 1; and numbers that do not fit a stage's state."""
        if isinstance(value, bool):
            if info.field_name and cls.model_fields[info.field_name].annotation is not bool:
                raise _unexpected("a value, not true or false")
        elif isinstance(value, int) and abs(value) >= LARGEST:
            raise _unexpected("a number below 2**53")
        return value


def _known(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The options of the table in which `loc` lies."""
    fields = model.model_fields
    for part in loc[:-1]:
        inner = fields[str(part)].annotation if str(part) in fields else None
        for kind in (inner, *getattr(inner, "__args__", ())):
            fields = getattr(kind, "model_fields", fields)
    return [*fields]
