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
from tridetr.config.source import absolute_file, shown_value, without_logins
from tridetr.errors import ConfigError
from tridetr.files import read_text

_PLAIN_KEY = re.compile(r"[\w. -]{1,64}")


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, except that a key given twice is an error and not a silent last-one-wins."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not at construction, where merge keys (`<<`) have been replaced by what they merge
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Relative paths in it are taken from the file's own folder, or from the working folder where the file's own
    has no such file.

    Raises:
        ConfigError: it cannot be read, is no YAML, or a value is refused; the message lists every fault.
    """
    if not path.exists():
        raise ConfigError(
            f"{path}: no such file; `tridetr init -c {path}` or `tridetr config example > {path}` makes one"
        )
    return parse_config(read_text(path), origin=path)


def parse_config(text: str, *, origin: Path) -> Config:
    """Check the text of a configuration; ``origin`` is for messages and relative paths."""
    try:
        # The loader derives from SafeLoader.
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {_yaml_fault(error)}") from None
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
        lines = [without_logins(_explain(dict(fault))) for fault in faults]
        raise ConfigError("\n".join([f"{origin}: {len(lines)} fault(s)", *lines])) from None
    base = origin.resolve().parent
    try:
        str(base).encode()
    except UnicodeEncodeError:
        shown = str(base).encode(errors="backslashreplace").decode()
        raise ConfigError(f"{shown}: the name of this folder is not UTF-8; rename it") from None
    return _with_absolute_paths(config.with_merged_sections(), base)


def _yaml_fault(error: yaml.YAMLError) -> str:
    """Return what is wrong and where, without the text around it (which may hold a password)."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{getattr(error, 'problem', None) or type(error).__name__}"


def _explain(fault: dict[str, Any]) -> str:
    location = [part for part in fault["loc"] if part != "[key]"]
    # A URL as a key is a slip of the hand, and may hold a password
    parts = [str(part) if _PLAIN_KEY.fullmatch(str(part)) else "…" for part in location]
    dotted = ".".join(parts) or "(top level)"
    if fault["type"] == "extra_forbidden":
        known = known_keys(location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"known keys: {', '.join(known)}"
        return f"  {dotted}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"  {dotted}: is missing"
    message = fault["msg"].removeprefix("Value error, ")
    value = fault.get("input")
    if isinstance(value, str):
        value = shown_value(value)
    shown = f" (found {value!r})" if isinstance(value, str | int | float | bool) else ""
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
        elif typing.get_origin(section) is tuple:
            section = _plain_type(typing.get_args(section)[0])
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
        try:
            path = path.expanduser()
        except RuntimeError:
            raise ConfigError(f"{path}: there is no such user, or no home folder") from None
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
        if isinstance(section, tuple):
            return tuple(rebuild(value) for value in section)
        return section

    rebuilt: Config = rebuild(config)
    cameras = {
        name: camera.model_copy(
            update={"source": absolute_file(camera.source, absolute(Path(camera.source.text)))}
        )
        if camera.source.kind == "file"
        else camera
        for name, camera in rebuilt.cameras.items()
    }
    return rebuilt.model_copy(update={"cameras": cameras})
