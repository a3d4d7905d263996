"""Commands about a domain. A pipeline's name selects the domain, and the command also takes the domain's own options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from tocsin.pipelines.cli.plain import Command
from tocsin.pipelines.runtime.declare.errors import ConfigError

if TYPE_CHECKING:
    from tocsin.models.domain import Domain, Option
    from tocsin.pipelines.runtime.settings import Settings

OPTIONS = "tocsin.options"
"""Key of a domain's own options in a context's `meta`."""


def domain_of(settings: Settings, name: str) -> Domain:
    """The domain of a pipeline.

    Raises:
        ConfigError: there is no such pipeline, or its module has no domain.
    """
    from tocsin.models.domain import Domain
    from tocsin.pipelines.cli.deployment import check_known
    from tocsin.pipelines.runtime.engine.plan import current

    check_known(settings, name)
    module = current(settings.pipeline(name).factory).partition(":")[0]
    try:
        found = getattr(import_module(module), "domain", None)
    except ImportError as reason:
        raise ConfigError(f"pipelines.{name}.factory: expected a module that can be imported, got {reason}") from reason
    if not isinstance(found, Domain):
        raise ConfigError(
            f"pipeline {name}: expected a `domain` in {module} for training, scoring and feeding, got none; add one: "
            "docs/extend/domain.md"
        )
    return found


def options(context: typer.Context) -> dict[str, Any]:
    """The domain's own options that were given, by name."""
    found: dict[str, Any] = context.meta.get(OPTIONS, {})
    return found


class DomainCommand(Command):
    """A command whose first argument names a domain, and which also takes the options of one of the domain's methods.

    The options come from the method's signature, see `tocsin.models.domain.Option`. Without a domain among the arguments, the
    command has only the common options.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the common options and the domain's."""
        from tocsin.pipelines.cli.deployment import known_pipelines

        settings, domain_params = ctx.obj.settings() if ctx.obj else None, list[Any]()
        if settings:
            known = known_pipelines(settings)
            self.epilog = f"Domains: {', '.join(sorted(known))}."
            if domain_name := next((argument for argument in args if argument in known), None):
                domain_params = _params(getattr(domain_of(settings, domain_name), str(self.name)))
        common_params = list(self.params)
        self.params = [*common_params, *domain_params]
        try:
            rest: list[str] = super().parse_args(ctx, args)
        finally:
            self.params = common_params if not ctx.resilient_parsing else self.params
        domain_names = {param.name for param in domain_params}
        ctx.meta[OPTIONS] = {name: ctx.params.pop(name) for name in list(ctx.params) if name in domain_names}
        return rest


def _params(method: Callable[..., Any]) -> list[Any]:
    """Typer's parameters for the options in a method's signature."""
    from tocsin.models.domain import Option

    hints, parameters = get_type_hints(method, include_extras=True), list[inspect.Parameter]()
    for name, parameter in inspect.signature(method).parameters.items():
        hint = hints.get(name)
        if get_origin(hint) is Annotated and isinstance(option := get_args(hint)[1], Option):
            kind = get_args(hint)[0]
            annotation = Annotated[kind, _option(name, kind, option, parameter.default)]  # type: ignore[valid-type]
            parameters.append(parameter.replace(annotation=annotation))

    def command(**_: Any) -> None: ...

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False)
    app.command(cls=Command)(command)
    return [param for param in typer.main.get_command(app).params if param.name in command.__annotations__]


def _option(name: str, kind: Any, option: Option, default: Any) -> Any:
    flag = [f"--{name.replace('_', '-')}"] if kind is bool else []  # else typer adds the opposite flag, --no-NAME
    shown = "" if kind is bool or default in (None, "") else f" [{default}]"
    help = option.help.removesuffix(".") + f"{shown}."
    return typer.Option(*flag, help=help, metavar=option.metavar or None, min=option.least, show_default=False)
