"""How a configuration's faults are told: dotted name, what must hold, what was given, a guess."""

import dataclasses
import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from cattrs import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from causeway.cluster.config_yaml import ConfigError


class MismatchError(Exception):
    """What a value must be, and what was given; its path is added by those who catch it."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped one most likely stands for, if one is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def fields_of(config_class: Any) -> list[Any]:
    """The fields that a caller, and so a file, may give."""
    return [field for field in dataclasses.fields(config_class) if field.init]


def dataclasses_in(hint: Any) -> list[Any]:
    """The dataclasses among a type and the members of a union."""
    union = get_origin(hint) in (Union, types.UnionType)
    members = get_args(hint) if union else (hint,)
    return [m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)]


def faults_of(error: BaseException, path: str, known: list[str]) -> Iterator[str]:
    """One sentence per fault of an error tree, each with its dotted name."""
    path = _extended(path, error)
    if isinstance(error, BaseValidationError):
        for part in error.exceptions:
            yield from faults_of(part, path, known)
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(map(str, error.extra_fields)):
            yield _unknown_key(path, key, [f.name for f in fields_of(error.cl)], known)
    elif isinstance(error, MismatchError):
        yield f"{path or 'the configuration'} {error}"
    elif isinstance(error, KeyError):
        yield f"{path} must be given: it has no default"
    elif isinstance(error, ConfigError):
        yield f"{path}: {error}"
    elif isinstance(error, ValueError):  # of a __post_init__, which has its own words
        yield f"{path}: {error}" if path else str(error)
    else:
        raise error  # a field of a type that no hook knows: our mistake, not the user's


def _extended(path: str, error: BaseException) -> str:
    """The path with the attribute or index that this error carries as a note."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f"{path}.{note.name}" if path else note.name
        if isinstance(note, IterableValidationNote):
            index = note.index
            return f"{path}[{index}]" if isinstance(index, int) else f"{path}.{index}"
    return path


def _unknown_key(path: str, key: str, siblings: list[str], known: list[str]) -> str:
    """Names the unknown key and the known one that was probably meant, here or elsewhere."""
    prefix = f"{path}." if path else ""
    near = nearest(key, siblings)
    elsewhere = [name for name in known if name.rpartition(".")[2] == key]
    guess = f"{prefix}{near}" if near else (elsewhere[0] if elsewhere else None)
    question = f"did you mean '{guess}'? " if guess else ""
    place = f"Known in '{path}'" if path else "Known"
    return f"'{prefix}{key}' is not a known key; {question}{place}: {', '.join(siblings)}."


def mismatch(kind: Any, given: Any) -> MismatchError:
    """The error of a value that is not of its kind."""
    return MismatchError(f"must be {describe(kind)}, got {show(given)}")


_DESCRIPTIONS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def describe(kind: Any) -> str:
    """A type in the user's words."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind in _DESCRIPTIONS:
        return _DESCRIPTIONS[kind]
    if origin is Literal:
        options = ", ".join(str(option) for option in arguments)
        return options if len(arguments) == 1 else f"one of {options}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in arguments)
    if origin is tuple and arguments and arguments[-1] is not ...:
        return f"a list of {len(arguments)}: {', '.join(describe(part) for part in arguments)}"
    if origin in (tuple, list, Sequence):
        return f"a list, each {describe(arguments[0])}" if arguments else "a list"
    if origin in (dict, Mapping):
        return "a mapping of names to values"
    return f"a section with the keys {', '.join(field.name for field in fields_of(kind))}"


def show(value: Any) -> str:
    """A value as it was given, with its kind; long ones are cut."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, value))}" if value else "{}"
    text = repr(str(value) if isinstance(value, str) else value)
    short = text if len(text) <= 60 else f"{text[:57]}..."
    if isinstance(value, str):
        return f"{short} (text)"
    return f"{short} (a number)" if isinstance(value, (int, float)) else short
