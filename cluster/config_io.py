"""Reading and writing run configurations: a YAML file, then overrides from the command line.

Defaults live in the dataclasses; a file says only what differs; an override says it last. The
resolved configuration, saved with the run, is complete.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from causeway.cluster.config_errors import nearest
from causeway.cluster.config_structure import CommandLineWord, known_keys, structure, to_plain
from causeway.cluster.config_yaml import ConfigError, format_yaml, parse_yaml

__all__ = [
    "ConfigError",
    "dump_yaml",
    "known_keys",
    "load_config",
    "merge",
    "nearest",
    "parse_overrides",
    "read_yaml",
    "structure",
    "to_plain",
]

T = TypeVar("T")


def load_config(
    config_class: type[T], path: Path | None = None, overrides: Sequence[str] = ()
) -> T:
    """The configuration of a file with the command line's overrides on top.

    Args:
        config_class: a dataclass, itself made of dataclasses for its sections.
        path: a YAML file; without one, the defaults of the class.
        overrides: words of the command line, `--section.key value` or `--section.key=value`.

    Raises:
        ConfigError: the file cannot be read, or what it or an override says is not valid.
    """
    data = read_yaml(path) if path is not None else {}
    sources = [str(path)] if path is not None else []
    if overrides:
        data = merge(data, parse_overrides(overrides))
        sources.append("the command line")
    return structure(config_class, data, " with ".join(sources) or "the defaults")


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML file.

    Raises:
        ConfigError: the file is absent, not text, not YAML, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; {_files_beside(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}") from None
    data = parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} must hold sections, such as `learner:` with keys below it, "
            f"got {type(data).__name__} at the top"
        )
    return data


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Overrides as nested mappings; a hyphen in a key is an underscore, the last value wins.

    Values stay words until their field's type is known, so that `--run.name 007` is text.

    Raises:
        ConfigError: a word is not an override, lacks its value, or contradicts another.
    """
    nested: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        name, has_value, value = word.partition("=")
        if not name.startswith("--") or not name.strip("-"):
            raise ConfigError(
                f"'{word}' is not an override; write --section.key value, "
                "and quote a value that holds spaces"
            )
        if not has_value:
            following = next(words, None)
            if following is None or following.startswith("--"):
                raise ConfigError(f"{name} must be followed by its value, as in {name} true")
            value = following
        _put(nested, name[2:].replace("-", "_").split("."), CommandLineWord(value))
    return nested


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top, section by section; neither argument is altered."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def dump_yaml(config: Any) -> str:
    """A configuration, all fields written out, as YAML that `load_config` reads back equal."""
    return format_yaml(to_plain(config))


def _put(nested: dict[str, Any], keys: list[str], value: CommandLineWord) -> None:
    """Sets a dotted key, refusing a key that is a value and a section at once."""
    dotted = ".".join(keys)
    if not all(keys):
        raise ConfigError(f"--{dotted} has an empty part; write --section.key value")
    for key in keys[:-1]:
        nested = nested.setdefault(key, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"--{dotted} contradicts the value given to '{key}' before it")
    if isinstance(nested.get(keys[-1]), dict):
        raise ConfigError(f"--{dotted} contradicts the keys given below it")
    nested[keys[-1]] = value


def _files_beside(path: Path) -> str:
    """What might have been meant instead of an absent file."""
    found = sorted(p.name for pattern in ("*.yaml", "*.yml") for p in path.parent.glob(pattern))
    near = nearest(path.name, found)
    if near:
        return f"did you mean {path.with_name(near)}?"
    return f"{path.parent} holds: {', '.join(found)}" if found else "check the path"
