"""Build the documentation site into build/docs or FOLDER: `python -m docs [FOLDER]`, which `make docs` runs.

Pages include generated text: `<!-- readme: The tour -->` is replaced by the section of the README with that heading,
`<!-- settings -->` by the reference of all settings, and `<!-- options: module:class -->` by the reference of a pipeline's own
options. Pictures and formulas are drawn here, so that the site fetches nothing from another host.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs import flame, formulas, pictures, system
from tocsin.pipelines.runtime.declare.options import Duration, Options, Size
from tocsin.pipelines.runtime.declare.pipeline import TUNING, Batch, Commit, Pipeline
from tocsin.pipelines.runtime.pipeline_section import PipelineSettings
from tocsin.pipelines.runtime.sections import SecretFile, SinkSettings
from tocsin.pipelines.runtime.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SHIM = "https://unpkg.com/iframe-worker/shim"
NAMED = {"pipelines": PipelineSettings, "sinks": SinkSettings}
"""Sections that may occur several times, each with a name."""
KINDS: dict[Any, str] = {
    Duration: "a duration",
    Size: "a size",
    SecretFile: "a file's path; its content is kept secret",
}


def main() -> None:
    """Build the site; exit with status 1 on a broken link."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs").absolute()
    with TemporaryDirectory() as folder:
        pages = Path(folder) / "docs"
        shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.py", "__pycache__", "pictures", "*.toml"))
        for page in pages.rglob("*.md"):
            page.write_text(expanded(page.read_text()))
        for name in pictures.names():
            folder_of = pages if (pages / f"{name}.md").exists() else pages / "operators"
            (folder_of / f"{name}.svg").write_bytes(pictures.svg(name))
        (pages / "system.svg").write_text(system.svg())
        (pages / "flame.svg").write_text(flame.svg())
        (Path(folder) / "zensical.toml").write_text((DOCS / "zensical.toml").read_text())
        command = [Path(sys.executable).parent / "zensical", "build", "--strict", "--clean"]
        built = subprocess.run(command, cwd=folder, text=True, capture_output=True)
        if built.returncode:
            sys.exit(built.stdout + built.stderr)
        _keep_at_home(Path(folder) / "site")
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(Path(folder) / "site", site)
    print(f"{site / 'index.html'}")


def _keep_at_home(site: Path) -> None:
    """Make pages load the theme's worker for pages opened from files from the site itself instead of another host."""
    for page in site.rglob("*.html"):
        own = "../" * (len(page.relative_to(site).parts) - 1) + "worker.js"
        page.write_text(page.read_text().replace(SHIM, own))


def expanded(markdown: str) -> str:
    """Replace the placeholders of a page with the text that they name."""
    markdown = re.sub(r"<!-- readme: (.+) -->", lambda found: _readme(found[1]), markdown)
    markdown = re.sub(r"<!-- options: (.+) -->", lambda found: _options(found[1]), markdown)
    markdown = re.sub(r"^```math\n(.*?)^```$", lambda found: formulas.html(found[1]), markdown, flags=re.M | re.S)
    return markdown.replace("<!-- settings -->", _settings())


def _readme(heading: str) -> str:
    """Return a section of the README without its heading."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if not found:
        raise ValueError(f"README.md: expected a section {heading!r}, got none; correct its name in docs/")
    return found[1]


def _options(model: str) -> str:
    """Return the reference of a pipeline's own options. `model` is `module:class`, a subclass of `Options`."""
    module, _, name = model.partition(":")
    options: type[Options] = getattr(importlib.import_module(module), name)
    return _section(("pipelines", options.model_fields["name"].default), options, skip=Options.model_fields)


def _settings() -> str:
    """Return the reference of all settings: name, meaning, type, default, environment variable."""
    parts = []
    for name, field in Settings.model_fields.items():
        path, model = ((name, "<name>"), NAMED[name]) if name in NAMED else ((name,), field.annotation)
        assert isinstance(model, type) and issubclass(model, BaseModel)
        summary = inspect.cleandoc(model.__doc__ or "").split("\n\nArgs:")[0]
        summary = _sentence(re.sub(r"^`[^`]+`: ", "", summary))
        parts.append(f"## `[{'.'.join(path)}]`\n\n{summary}\n\n{_section(path, model)}")
    return "\n".join(parts)


def _section(path: tuple[str, ...], model: type[BaseModel], skip: Collection[str] = ()) -> str:
    meanings, hints = _args(inspect.cleandoc(model.__doc__ or "")), get_type_hints(model, include_extras=True)
    schema, lines = model.model_json_schema()["properties"], []
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        if name not in meanings:
            raise ValueError(
                f"{model.__name__}.{name}: expected its meaning in the docstring's Args, got none; add a line"
            )
        kind = _kind(hints[name], schema[name])
        default = _own(name) if name in TUNING else _default(field)
        variable = PREFIX + "__".join((*path, name)).upper()
        facts = f"{_sentence(kind)}. Default: {default}. Environment: `{variable}`"
        lines.append(f"`{'.'.join((*path, name))}`\n:   {meanings[name]}\n\n    {facts}\n")
    return "\n".join(lines)


def _kind(hint: Any, schema: dict[str, Any]) -> str:
    """Describe a type in words."""
    for known in (hint, *get_args(hint)):  # the arguments: the type may be optional
        if known in KINDS:
            return KINDS[known]
    schema = next((s for s in schema.get("anyOf", ()) if s["type"] != "null"), schema)
    secret = ", kept secret" if "password" in str(schema) else ""
    if "enum" in schema:
        return "one of " + ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema["type"] in ("integer", "number"):
        whole = "whole " if schema["type"] == "integer" else ""
        above = f" above {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""
        least = f" from {schema['minimum']:g}" if "minimum" in schema else ""
        most = f" to {schema['maximum']:g}" if "maximum" in schema else ""
        return f"a {whole}number{above}{least}{most}"
    words = {"array": "a list of texts", "string": "text", "boolean": "`true` or `false`", "object": "a table of texts"}
    return words[schema["type"]] + secret


def _own(name: str) -> str:
    """Describe the default of a setting that a pipeline may set for itself."""
    (default,) = (f.default for declared in (Batch, Commit, Pipeline) for f in fields(declared) if f.name == name)
    return f"the pipeline's own, else {_shown(default)}"


def _default(field: FieldInfo) -> str:
    return "none, it must be set" if field.is_required() else _shown(field.get_default(call_default_factory=True))


def _shown(default: Any) -> str:
    if default is None or default in ("", {}, ()):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _args(doc: str) -> dict[str, str]:
    """Parse the meanings in a docstring's `Args:` by name; one entry may document several names."""
    joined = re.sub(r"\n {8,}", " ", doc.partition("\nArgs:\n")[2])
    found = re.findall(r"^ {4}(\w+(?:, \w+)*): (.+)$", joined, re.MULTILINE)
    return {name: _sentence(meaning) for names, meaning in found for name in names.split(", ")}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    main()
