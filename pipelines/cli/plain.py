"""Formatting of help: flags without a type, uniform arguments, square brackets shown as they are written."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption


class _Plain:
    """Formatting that commands and groups share."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All options and arguments, including `--help`."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if param.help:  # rich would take `[finder]` for markup and drop it
                param.help = re.sub(r"(?<!\\)\[(?=[a-z#/@])", r"\\[", param.help)
            if isinstance(param, TyperOption) and param.is_flag:
                param.metavar = ""  # a flag takes no value, so it has no type to show
        return params

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`PIPELINE` if it is required, `[PIPELINE]` if it is optional."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]  # type: ignore[misc]


class Command(_Plain, TyperCommand):
    """A command of `tocsin`."""


class Group(_Plain, TyperGroup):
    """Commands under one name."""


class App(typer.Typer):
    """A typer app that uses `Group` and `Command`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, **options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Add a command."""
        return super().command(name, **{"cls": Command, **options})
