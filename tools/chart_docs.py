#!/usr/bin/env python3
"""Write the chart's values.schema.json and README from values.yaml and the clients' own configuration schema.

python tools/chart_docs.py            # writes both files
python tools/chart_docs.py --check    # fails if they are not up to date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from tridetr.config import Config

CHART = Path(__file__).resolve().parents[1] / "helm" / "tridetr"
# Places where any key is allowed: Kubernetes objects, labels, annotations
FREE = re.compile(
    r"nodeSelector|affinity|podAnnotations|annotations|labels|tolerations|resources\.\w+\.(requests|limits)"
    r"|broker\.resources\.(requests|limits)|allowFrom"
)
CONFIG_SECTIONS = {
    "model": "ModelSection", "triton": "TritonSection", "detect": "DetectSection",
    "alarm": "AlarmSection", "sentry": "SentrySection", "packets": "PacketsSection",
    "armed": "ArmedSection", "evidence": "EvidenceSection", "log": "LogSection",
}  # fmt: skip
CHOICES = {
    "state.type": ["pvc", "hostPath", "none"],
    "gpu.engineCache.type": ["pvc", "hostPath"],
    "devices.mode": ["hostPath", "plugin"],
    "gateway.service.type": ["ClusterIP", "NodePort", "LoadBalancer"],
}
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}


def schema_of(value: Any, path: str) -> dict[str, Any]:
    """Return the JSON schema that a default value implies."""
    name = path.rsplit(".", 1)[-1]
    if path in CHOICES:
        return {"enum": CHOICES[path]}
    if path == "nodes":
        item = schema_of(value[0], "node")
        item["required"] = ["name", "cameras"]
        item["properties"]["name"] = {
            "type": "string",
            "pattern": "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
        }
        return {"type": "array", "items": item}
    if name == "cameras":
        return {"type": "object", "additionalProperties": {"$ref": "#/$defs/Camera"}}
    if path.startswith("config.") and name in CONFIG_SECTIONS:
        section = {"$ref": f"#/$defs/{CONFIG_SECTIONS[name]}"}
        return {"anyOf": [section, {"type": "null"}]} if value is None else section
    if path == "config.notify":
        return {"type": "array", "items": {"$ref": "#/$defs/NotifySection"}}
    if path == "files":
        named = {"name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,56}[a-z0-9])?$"}}
        # In addition to the name, exactly one kind of volume
        item = {"type": "object", "required": ["name"], "minProperties": 2, "maxProperties": 2}
        return {"type": "array", "items": {**item, "properties": named}}
    if path == "notify.timeZone":
        return {"type": "string", "pattern": "^([A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*)?$"}
    if path == "node.gpu":
        return {"type": ["boolean", "null"]}
    if isinstance(value, dict | list) and (FREE.fullmatch(path) or FREE.fullmatch(name)):
        return {"type": "array" if isinstance(value, list) else "object"}
    if isinstance(value, dict):
        properties = {
            key: schema_of(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()
        }
        return {"type": "object", "properties": properties, "additionalProperties": False}
    if isinstance(value, list):
        return {"type": "array"}
    kind = TYPES[type(value)]
    return {"type": "number" if kind == "integer" and "atio" in name else kind}


def build_schema(values: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of values.yaml."""
    schema = schema_of(values, "")
    schema["properties"]["global"] = {"type": "object"}  # Helm's own
    config = Config.model_json_schema(ref_template="#/$defs/{model}")
    definitions = {
        name: config["$defs"][name]
        for name in (*CONFIG_SECTIONS.values(), "NotifySection", "CameraSection")
    }
    camera = json.loads(json.dumps(definitions.pop("CameraSection")))
    camera["properties"].pop("credentials_file")
    camera["properties"]["credentialsSecret"] = {
        "type": "string",
        "description": "Secret with the key `credentials`: one line `user:password`.",
    }
    definitions["Camera"] = camera
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "$defs": definitions}


def build_readme(text: str) -> str:
    """Return the chart's README: a table of all values, explained by the comments that begin with `--`."""
    rows: list[str] = []
    stack: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            note = stripped.lstrip("#").strip()
            comment = (
                [note[2:].strip()] if note.startswith("--") else [*comment, note] if comment else []
            )
            continue
        match = re.match(r"( *)(- )?([A-Za-z]\w*):(?: (.*))?$", line)
        if not match:
            continue
        indent = len(match[1]) + len(match[2] or "")
        while stack and stack[-1][0] >= indent:
            stack.pop()
        stack.append((indent, match[3]))
        default = (match[4] or "").split("  #")[0].strip()
        if comment or default:
            key = ".".join(name for _, name in stack)
            rows.append(f"| `{key}` | {f'`{default}`' if default else ''} | {' '.join(comment)} |")
        comment = []
    return README.format(rows="\n".join(rows))


README = """# The tridetr chart

The chart runs one pod for each camera node: Triton, one capture per camera, detector, controller, gateway. How to
install it on a bare machine is described in [docs/k3s.md](../../docs/k3s.md). Example values are in `examples/`.

```
helm install tridetr helm/tridetr -f my-node.yaml
helm test tridetr
```

## Values

This table is generated by `tools/chart_docs.py` from `values.yaml`.

| key | default | meaning |
|---|---|---|
{rows}
"""


def main() -> None:
    """Write or check both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check that they are up to date")
    check = parser.parse_args().check
    text = (CHART / "values.yaml").read_text()
    wanted = {
        "values.schema.json": json.dumps(build_schema(yaml.safe_load(text)), indent=1) + "\n",
        "README.md": build_readme(text),
    }
    stale = [
        name
        for name, content in wanted.items()
        if not (CHART / name).exists() or (CHART / name).read_text() != content
    ]
    if check and stale:
        sys.exit(f"not up to date: {', '.join(stale)}: run python tools/chart_docs.py")
    for name in stale:
        (CHART / name).write_text(wanted[name])


if __name__ == "__main__":
    main()
