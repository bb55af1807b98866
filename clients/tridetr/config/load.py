"""Load and validate the YAML configuration; errors name the key, the reason and the closest known key."""

from __future__ import annotations

import difflib
import os
import re
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tridetr.config.schema import Config
from tridetr.config.section import SECRET_FILES
from tridetr.config.source import CameraSource, shown_value, without_logins
from tridetr.errors import ConfigError
from tridetr.files import read_text

_PLAIN_KEY = re.compile(r"[\w. -]{1,64}")
_QUOTED = re.compile(r"""['"].*['"]""", re.DOTALL)  # what YAML's errors repeat of the file
_MOST_KEYS = 10_000  # of a mapping
_TRUTH = {True: "`on`, `yes` and `true`", False: "`off`, `no` and `false`"}


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a duplicate key is an error; YAML would silently keep the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not at construction: by then, merge keys (`<<`) have been replaced by what they merge
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, "duplicate key", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:  # mappings that merge each other grow exponentially
            raise yaml.constructor.ConstructorError(
                None, None, "too many keys to merge", node.start_mark
            )

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # the latter with !!bool and !!timestamp
            raise yaml.constructor.ConstructorError(
                None, None, "not a valid number or date", node.start_mark
            ) from None


def load_config(path: Path) -> Config:
    """Load and validate a configuration file.

    Relative paths in it are resolved against the file's folder; if nothing exists there, but does in the working
    directory, against the working directory.

    Raises:
        ConfigError: The file cannot be read, is not valid YAML, or a value is invalid; the message lists every
            fault.
    """
    if not path.exists():
        raise ConfigError(
            f"{path}: no such file; create it with `tridetr init -c {path}` or `tridetr config example > {path}`"
        )
    return parse_config(read_text(path), origin=path)


def parse_config(text: str, *, origin: Path) -> Config:
    """Validate the text of a configuration.

    Args:
        text: YAML.
        origin: Path of the file, for messages and to resolve relative paths.

    Raises:
        ConfigError: The text is not valid YAML, or a value is invalid; the message lists every fault.

    Example:
        >>> config = parse_config("cameras: {hall: {source: synthetic}}", origin=Path("tridetr.yaml"))
        >>> config.cameras["hall"].source.kind
        'synthetic'
    """
    try:
        # The loader derives from SafeLoader.
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {_yaml_fault(error, text)}") from None
    except RecursionError:
        raise ConfigError(f"{origin}: not valid YAML: nested too deeply") from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{origin}: expected keys such as `cameras:`, found {type(data).__name__}"
        )
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        # A default that depends on an invalid value fails too, but is not a fault in the file
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


def _yaml_fault(error: yaml.YAMLError, text: str) -> str:
    """Return the problem, its position and the remedy, without any text of the file: it may be a password."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position].rpartition("\n")
        line, column = text.count("\n", 0, error.position), len(before[2])
        problem = "found a character that YAML does not allow"
    elif isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line, column = error.problem_mark.line, error.problem_mark.column
        problem = (error.problem or "").replace("second occurrence", "duplicate anchor")
    else:
        return type(error).__name__
    shown = _QUOTED.sub("…", problem)
    is_twice = problem.startswith("duplicate")
    remedy = "Remove one of the two" if is_twice else "Write text with special characters in quotes"
    return f"line {line + 1}, column {column + 1}: {shown}. {remedy}"


def _explain(fault: dict[str, Any]) -> str:
    location = [part for part in fault["loc"] if part != "[key]"]
    # A URL in place of a key is a typing mistake, and may contain a password
    parts = [str(part) if _PLAIN_KEY.fullmatch(str(part)) else "…" for part in location]
    dotted = ".".join(parts) or "(top level)"
    if fault["type"] == "extra_forbidden":
        known = known_keys(location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"known keys: {', '.join(known)}"
        return f"  {dotted}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"  {dotted}: missing, but required"
    message = fault["msg"].removeprefix("Value error, ")
    value = fault.get("input")
    if "[key]" in fault["loc"] and not isinstance(value, str):
        section = ".".join(parts[:-1])
        return f"  {section}: YAML reads {_as_read(value)}: write the name in quotes"
    if isinstance(value, str):
        value = shown_value(value)
    is_plain = isinstance(value, str | int | float | bool) and not _is_long(value)
    is_shown = is_plain and not SECRET_FILES & {*location}
    shown = f" (found {value!r})" if is_shown else ""
    return f"  {dotted}: {message}{shown}"


def _as_read(key: object) -> str:
    """Return what YAML makes of a key that is not text."""
    if isinstance(key, bool):
        return f"{_TRUTH[key]} as a truth value"
    if key is None:
        return "this name as nothing"
    if not isinstance(key, int | float):
        return "this name as a date"
    return "this name as a number" if _is_long(key) else f"{key} as a number"


def _is_long(number: object) -> bool:
    """Return whether a number has too many digits to be shown."""
    return isinstance(number, int) and number.bit_length() > 64


def known_keys(location: list[str | int]) -> list[str]:
    """Return the valid keys of the section at ``location`` (a path of keys from the top level).

    Example:
        >>> known_keys(["log"])
        ['level', 'format']
    """
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

    def absolute(path: Path, key: str) -> Path:
        try:
            path = path.expanduser()
        except RuntimeError:
            shown = key if key in SECRET_FILES else path
            raise ConfigError(
                f"{shown}: cannot expand ~: no such user, or the user has no home folder"
            ) from None
        if path.is_absolute():
            return path
        # Not Path.exists, which raises an error with the value if that is too long for a file name
        is_here = not os.path.exists(base / path) and os.path.exists(path)  # noqa: PTH110
        return path.resolve() if is_here else base / path

    def rebuild(section: Any, key: str = "") -> Any:
        if isinstance(section, Path):
            return absolute(section, key)
        if isinstance(section, BaseModel):
            values = {
                name: rebuild(getattr(section, name), name) for name in type(section).model_fields
            }
            return section.model_copy(update=values)
        if isinstance(section, dict):
            return {name: rebuild(value) for name, value in section.items()}
        if isinstance(section, tuple):
            return tuple(rebuild(value) for value in section)
        return section

    rebuilt: Config = rebuild(config)
    cameras = {
        name: camera.model_copy(
            update={
                "source": CameraSource(str(absolute(Path(camera.source.text), "source")), "file")
            }
        )
        if camera.source.kind == "file"
        else camera
        for name, camera in rebuilt.cameras.items()
    }
    return rebuilt.model_copy(update={"cameras": cameras})
