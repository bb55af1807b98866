"""Read the YAML file and check it; errors name the key, the reason and the nearest known key."""

from __future__ import annotations

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tridetr.config.schema import Config
from tridetr.errors import ConfigError


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, except that a key given twice is an error and not a silent last-one-wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) or key is None:
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Relative paths in it are taken from the file's own folder, or from the working folder where the file's own
    has no such file.

    Raises:
        ConfigError: it cannot be read, is no YAML, or a value is refused; the message lists every fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; start from `tridetr config example > {path}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse_config(text, origin=path)


def parse_config(text: str, *, origin: Path) -> Config:
    """Check the text of a configuration; ``origin`` is for messages and relative paths."""
    try:
        # The loader derives from SafeLoader.
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{origin}: not valid YAML: nested too deeply") from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{origin}: expected keys such as `cameras:`, found {type(data).__name__}"
        )
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        # A default that depends on a refused value is a consequence, not a fault of the user's.
        faults = [
            fault for fault in error.errors() if fault["type"] != "default_factory_not_called"
        ]
        lines = [_explain(dict(fault)) for fault in faults]
        raise ConfigError("\n".join([f"{origin}: {len(lines)} fault(s)", *lines])) from None
    return _with_absolute_paths(config, origin.resolve().parent)


def _explain(fault: dict[str, Any]) -> str:
    location = [part for part in fault["loc"] if part != "[key]"]
    dotted = ".".join(map(str, location)) or "(top level)"
    if fault["type"] == "extra_forbidden":
        known = known_keys(location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"known keys: {', '.join(known)}"
        return f"  {dotted}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"  {dotted}: is missing"
    message = fault["msg"].removeprefix("Value error, ")
    value = fault.get("input")
    shown = f" (found {value!r})" if isinstance(value, str | int | float | bool) else ""
    shown = re.sub(r"://[^/@]*@", "://***@", shown)  # a refused URL may hold a password
    return f"  {dotted}: {message}{shown}"


def known_keys(location: list[str | int]) -> list[str]:
    """Return the keys that the section at ``location`` (a path of keys from the top) knows."""
    section: Any = Config
    for part in location:
        if isinstance(section, type) and issubclass(section, BaseModel):
            field = section.model_fields.get(str(part))
            section = _plain_type(field.annotation) if field else None
        elif typing.get_origin(section) is dict:
            section = _plain_type(typing.get_args(section)[1])
    if isinstance(section, type) and issubclass(section, BaseModel):
        return list(section.model_fields)
    return []


def _plain_type(annotation: Any) -> Any:
    """Strip ``| None`` from a type."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(arg for arg in typing.get_args(annotation) if arg is not type(None))
    return annotation


def _with_absolute_paths(config: Config, base: Path) -> Config:
    """Return the configuration with every relative path made absolute."""

    def absolute(path: Path) -> Path:
        path = path.expanduser()
        if path.is_absolute():
            return path
        return base / path if (base / path).exists() or not path.exists() else path.resolve()

    def rebuild(section: Any) -> Any:
        if isinstance(section, Path):
            return absolute(section)
        if isinstance(section, BaseModel):
            values = {name: rebuild(getattr(section, name)) for name in type(section).model_fields}
            return section.model_copy(update=values)
        if isinstance(section, dict):
            return {name: rebuild(value) for name, value in section.items()}
        return section

    rebuilt: Config = rebuild(config)
    cameras = {
        name: camera.model_copy(update={"source": str(absolute(Path(camera.source)))})
        if camera.is_file
        else camera
        for name, camera in rebuilt.cameras.items()
    }
    return rebuilt.model_copy(update={"cameras": cameras})
