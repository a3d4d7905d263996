"""What `mkdocs build` puts into the pages: sections of the README, the reference of all settings, the operators' pictures.

In a page, `<!-- readme: The tour -->` stands for a section by its heading, `<!-- settings -->` for the reference, and
`<!-- options: pipelines/rul.py -->` for what that pipeline's docstring says of its options.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
# The command `mkdocs` does not look for modules in the current folder, and `docs` is not part of the installed package.
sys.path.insert(0, str(ROOT))

from docs import pictures  # noqa: E402
from pipelines.runtime.pipeline import TUNING, Batch, Commit, Pipeline  # noqa: E402
from pipelines.runtime.settings import PREFIX, Duration, PipelineSettings, SecretFile, Settings, Size  # noqa: E402

KINDS: dict[Any, str] = {
    Duration: "a duration",
    Size: "a size",
    SecretFile: "a file's path; its content is kept secret",
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """MkDocs calls this with the site's files."""
    for name in pictures.names():
        files.append(File.generated(config, f"operators/{name}.svg", content=pictures.svg(name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this with each page's text."""
    markdown = re.sub(r"<!-- readme: (.+) -->", lambda found: _readme(found[1]), markdown)
    markdown = re.sub(r"<!-- options: (.+) -->", lambda found: _options(ROOT / found[1]), markdown)
    return markdown.replace("<!-- settings -->", _settings())


def _readme(heading: str) -> str:
    """A section of the README, without its heading."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if not found:
        raise ValueError(f"README.md: expected a section {heading!r}, got none; correct its name in docs/")
    return found[1]


def _options(file: Path) -> str:
    """What a pipeline's factory says of its options."""
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    (factory,) = (node for node in functions if node.name == "pipeline")
    return _args(ast.get_docstring(factory) or "")["options"]


def _settings() -> str:
    """Every setting: name, meaning, type, default, environment variable."""
    parts = []
    for name, field in Settings.model_fields.items():
        path, model = ((name, "<name>"), PipelineSettings) if name == "pipelines" else ((name,), field.annotation)
        assert isinstance(model, type) and issubclass(model, BaseModel)
        summary = inspect.cleandoc(model.__doc__ or "").split("\n\nArgs:")[0]
        summary = _sentence(re.sub(r"^`[^`]+`: ", "", summary))
        parts.append(f"## `[{'.'.join(path)}]`\n\n{summary}\n\n{_section(path, model)}")
    return "\n".join(parts)


def _section(path: tuple[str, ...], model: type[BaseModel]) -> str:
    meanings, hints = _args(inspect.cleandoc(model.__doc__ or "")), get_type_hints(model, include_extras=True)
    schema, lines = model.model_json_schema()["properties"], []
    for name, field in model.model_fields.items():
        if name not in meanings:
            raise ValueError(
                f"{model.__name__}.{name}: expected its meaning in the docstring's Args, got none; add a line"
            )
        kind = _kind(hints[name], schema[name])
        default = _own(name) if name in TUNING else _shown(field.get_default(call_default_factory=True))
        variable = PREFIX + "__".join((*path, name)).upper()
        facts = f"{_sentence(kind)}. Default: {default}. Environment: `{variable}`"
        lines.append(f"`{'.'.join((*path, name))}`\n:   {meanings[name]}\n\n    {facts}\n")
    return "\n".join(lines)


def _kind(hint: Any, schema: dict[str, Any]) -> str:
    """A type in words."""
    for known in (hint, *get_args(hint)):  # it may be that or None
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
    return {"string": "text", "boolean": "`true` or `false`", "object": "a table of texts"}[schema["type"]] + secret


def _own(name: str) -> str:
    """The default of what a pipeline may set for itself."""
    (default,) = (f.default for declared in (Batch, Commit, Pipeline) for f in fields(declared) if f.name == name)
    return f"the pipeline's own, else {_shown(default)}"


def _shown(default: Any) -> str:
    if default is None or default in ("", {}):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _args(doc: str) -> dict[str, str]:
    """The meanings in a docstring's `Args:`, each of which may be that of several names."""
    joined = re.sub(r"\n {8,}", " ", doc.partition("\nArgs:\n")[2])
    found = re.findall(r"^ {4}(\w+(?:, \w+)*): (.+)$", joined, re.MULTILINE)
    return {name: _sentence(meaning) for names, meaning in found for name in names.split(", ")}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
