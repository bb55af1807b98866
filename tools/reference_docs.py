"""Generate the Markdown of the reference pages from the code: keys, commands, routes, metrics.

python tools/reference_docs.py config|cli|api|metrics     # prints one page
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import typer.main
from prometheus_client.metrics import MetricWrapperBase

from tridetr.cli.main import app
from tridetr.config import Config
from tridetr.gateway.openapi import description
from tridetr.telemetry import metrics


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def config_keys() -> str:
    """Return a table of keys for each section of the configuration."""
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    parts = ["## Top level", _keys(schema, definitions)]
    for name, field in schema["properties"].items():
        section = _section(field.get("additionalProperties", field), definitions)
        if section is None:
            continue
        title = f"{name}.NAME" if "additionalProperties" in field else name
        parts += [f"## `{title}`", section.get("description", ""), _keys(section, definitions)]
        for inner, field_of in section["properties"].items():
            nested = _section(field_of, definitions)
            if nested is not None and inner not in schema["properties"]:
                parts += [f"### `{title}.{inner}`", nested.get("description", "")]
                parts.append(_keys(nested, definitions))
    return "\n\n".join(parts)


def _section(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of a section that a field holds; None for a plain value."""
    for choice in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        if "$ref" in choice:
            found: dict[str, Any] = definitions[choice["$ref"].rpartition("/")[2]]
            return found if "properties" in found else None
    return None


def _keys(section: dict[str, Any], definitions: dict[str, Any]) -> str:
    required = section.get("required", ())
    rows = []
    for name, field in section["properties"].items():
        default = "required" if name in required else ""
        if "default" in field:
            default = f"`{json.dumps(field['default'], ensure_ascii=False)}`"
        nested = _section(field.get("additionalProperties", field), definitions)
        text = field.get("description") or (nested or {}).get("description", "")
        rows.append((f"`{name}`", _kind(field, definitions), default, text))
    return _table(("key", "value", "default", "meaning"), rows)


def _kind(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in field:
        target = definitions[field["$ref"].rpartition("/")[2]]
        return "section" if "properties" in target else _kind(target, definitions)
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(choice, definitions) for choice in field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("type", "text")
    if kind == "object":
        return "sections by name"
    if kind == "array":
        return "list"
    if field.get("format") == "path":
        return "path"
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    names = {"integer": "whole number", "string": "text", "boolean": "true, false"}
    name: str = names.get(kind, kind)
    if low is None and high is None:
        return name
    above = f"above {low}" if "exclusiveMinimum" in field else f"from {low}"
    return f"{name} {above if low is not None else ''}{f' to {high}' if high is not None else ''}"


def cli_commands() -> str:
    """Return every command with its arguments and options."""
    return "\n\n".join(_command(typer.main.get_command(app), "tridetr", 2))


def _command(command: Any, path: str, level: int) -> list[str]:
    if children := getattr(command, "commands", None):
        parts = [] if path == "tridetr" else [f"{'#' * level} `{path}`", command.help or ""]
        deeper = level if path == "tridetr" else level + 1
        for name, child in children.items():
            parts += _command(child, f"{path} {name}", deeper)
        return parts
    rows = []
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        names = (
            [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
        )
        default = parameter.default
        if callable(default) or default in (None, False, [], ()):
            default = ""
        text = getattr(parameter, "help", None) or ""
        rows.append(
            (", ".join(f"`{n}`" for n in names), text, f"`{default}`" if default != "" else "")
        )
    table = _table(("option or argument", "meaning", "default"), rows) if rows else ""
    return [f"{'#' * level} `{path}`", command.help or "", table]


def api_routes() -> str:
    """Return every route of the gateway."""
    document = description()
    common = document["components"]["responses"]
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(f"## `{method.upper()} {path}`")
            is_open = operation.get("security") == []
            parts.append(f"{operation['summary']}." + (" Needs no token." if is_open else ""))
            rows = []
            for parameter in operation["parameters"]:
                schema = parameter["schema"]
                default = f"`{schema['default']}`" if "default" in schema else ""
                rows.append((f"`{parameter['name']}`", parameter.get("description", ""), default))
            if rows:
                parts.append(_table(("parameter", "meaning", "default"), rows))
            answers = []
            for status, answer in operation["responses"].items():
                found = common[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
                kinds = ", ".join(f"`{kind}`" for kind in found.get("content", ()))
                answers.append((status, found["description"], kinds))
            parts.append(_table(("status", "meaning", "content"), answers))
    return "\n\n".join(parts)


def metric_list() -> str:
    """Return every metric of the node's processes (without Triton's own)."""
    rows = []
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            suffix = "_total" if family.type == "counter" else ""
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            rows.append((f"`{family.name}{suffix}`", family.type, labels, family.documentation))
    return _table(("metric", "type", "labels", "meaning"), rows)


GENERATORS: dict[str, Callable[[], str]] = {
    "config": config_keys, "cli": cli_commands, "api": api_routes, "metrics": metric_list,
}  # fmt: skip

if __name__ == "__main__":
    print(GENERATORS[sys.argv[1]]())
