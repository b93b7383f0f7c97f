"""From plain values to typed configuration and back: strictly, and with errors that help.

Nothing is coerced but what cannot be misread: a whole number is a number, `1e6` is a whole number.
A union of dataclasses is a choice of variants; its section names the class under the key `type`.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cattrs import (
    BaseValidationError,
    Converter,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from causeway.cluster.config_errors import (
    MismatchError,
    dataclasses_in,
    describe,
    faults_of,
    fields_of,
    mismatch,
    nearest,
    show,
)
from causeway.cluster.config_yaml import ConfigError, parse_yaml

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]

VARIANT_KEY = "type"


class CommandLineWord(str):
    """A value as typed on the command line; the type of its field decides how it is read."""

    __slots__ = ()


def structure(config_class: type[T], data: Any, source: str) -> T:
    """The configuration that plain data describes.

    Args:
        config_class: a dataclass of fields with defaults or without.
        data: nested mappings, as YAML gives them; None stands for all defaults.
        source: where the data is from, for the error.

    Raises:
        ConfigError: every fault at once, each with its dotted name, what must hold and what was
            given.
    """
    try:
        return _converter().structure(data, config_class)
    except (BaseValidationError, MismatchError) as error:
        faults = list(faults_of(error, "", known_keys(config_class)))
        if len(faults) == 1:
            raise ConfigError(f"{source}: {faults[0]}") from None
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise ConfigError(f"{source} has {len(faults)} faults:\n{listed}") from None


def to_plain(config: Any) -> Any:
    """A configuration as mappings, lists and plain values, which `structure` takes back."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        hints = get_type_hints(type(config))
        return {
            f.name: _plain_field(config, f.name, hints[f.name]) for f in fields_of(type(config))
        }
    if isinstance(config, Mapping):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def known_keys(config_class: type) -> list[str]:
    """Every dotted key that a configuration of this class may give, in the order of the fields."""
    keys: list[str] = []
    hints = get_type_hints(config_class)
    for field in fields_of(config_class):
        keys.append(field.name)
        for section in dataclasses_in(hints[field.name]):
            keys += [f"{field.name}.{key}" for key in known_keys(section)]
    return list(dict.fromkeys(keys))


def _read(value: Any) -> Any:
    """A word of the command line as the YAML value it stands for; anything else as it is."""
    return parse_yaml(value, "command line") if isinstance(value, CommandLineWord) else value


def _boolean(value: Any, _: Any) -> bool:
    given = _read(value)
    if isinstance(given, bool):
        return given
    raise mismatch(bool, given)


def _whole_number(value: Any, _: Any) -> int:
    given = _read(value)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, float) and given.is_integer():
        return int(given)
    raise mismatch(int, given)


def _number(value: Any, _: Any) -> float:
    given = _read(value)
    if isinstance(given, (int, float)) and not isinstance(given, bool) and not math.isnan(given):
        return float(given)
    raise mismatch(float, given)


def _text(value: Any, _: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise mismatch(str, value)


def _path(value: Any, _: Any) -> Path:
    if isinstance(value, (str, Path)) and str(value):
        return Path(value)
    raise mismatch(Path, value)


def _choice(value: Any, choice: Any) -> Any:
    options = get_args(choice)
    for given in dict.fromkeys((_read(value), value)) if isinstance(value, str) else (value,):
        for option in options:
            if type(given) in (type(option), CommandLineWord) and given == option:
                return option
    near = nearest(str(value), [str(option) for option in options])
    hint = f"; did you mean {near}?" if near else ""
    raise MismatchError(f"must be {describe(choice)}, got {show(value)}{hint}")


def _each(parts: Iterable[tuple[Any, Any, type]], converter: Converter, whole: Any) -> list[Any]:
    """Structures (index, value, type) one by one, gathering every fault with its index."""
    done: list[Any] = []
    faults: list[Exception] = []
    for index, value, part in parts:
        try:
            done.append(converter.structure(value, part))
        except Exception as error:
            error.add_note(IterableValidationNote(f"at {index}", index, part))
            faults.append(error)
    if faults:
        raise IterableValidationError("faults in parts", faults, whole)
    return done


def _sequence_hook(kind: Any, converter: Converter) -> Hook:
    """A tuple or a list; on the command line also `1,2,3`."""
    origin = get_origin(kind) or kind
    make = list if origin is list else tuple
    arguments = get_args(kind)
    fixed = origin is tuple and arguments[-1:] != (...,) and bool(arguments)

    def hook(value: Any, _: Any) -> Any:
        given = _read(value)
        if isinstance(value, CommandLineWord) and isinstance(given, str) and "," in given:
            given = [CommandLineWord(part.strip()) for part in given.split(",")]
        if not isinstance(given, (list, tuple)) or (fixed and len(given) != len(arguments)):
            raise mismatch(kind, given)
        parts = arguments if fixed else (arguments or (Any,))[:1] * len(given)
        return make(_each(zip(range(len(given)), given, parts, strict=True), converter, kind))

    return hook


def _mapping_hook(kind: Any, converter: Converter) -> Hook:
    """A mapping with names that the user chooses, such as weights by loss."""
    part = (get_args(kind) or (str, Any))[1]

    def hook(value: Any, _: Any) -> Any:
        given = _read(value)
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise mismatch(kind, given)
        values = _each(((key, item, part) for key, item in given.items()), converter, kind)
        return dict(zip(given, values, strict=True))

    return hook


def _section_hook(section: Any, converter: Converter) -> Hook:
    """A dataclass; an empty section is one with all its defaults."""
    hook = make_dict_structure_fn(section, converter, _cattrs_forbid_extra_keys=True)

    def checked(value: Any, kind: Any) -> Any:
        given = _read(value)
        if given is not None and not isinstance(given, Mapping):
            raise mismatch(section, given)
        return hook(dict(given or {}), kind)

    return checked


def _union_hook(union: Any, converter: Converter) -> Hook:
    """An optional value, one of several plain types, or one of several dataclasses."""
    members = [member for member in get_args(union) if member is not type(None)]
    optional = len(members) < len(get_args(union))
    variants = {member.__name__: member for member in dataclasses_in(union)}
    plain = [member for member in members if member not in variants.values()]

    def hook(value: Any, _: Any) -> Any:
        given = _read(value)
        if given is None and optional:
            return None
        if len(members) == 1:
            return converter.structure(value, members[0])
        if variants and isinstance(given, Mapping):
            return converter.structure(*_variant(given, variants))
        # The type that a value already has comes first, text last: a word is always text too.
        for member in sorted(plain, key=lambda m: (m is str, type(given) is not m)):
            try:
                return converter.structure(value, member)
            except (MismatchError, BaseValidationError):
                continue
        raise mismatch(union, given)

    return hook


def _variant(given: Mapping[Any, Any], variants: Mapping[str, type]) -> tuple[dict[Any, Any], type]:
    """The section without its variant's name, and that variant."""
    name = given.get(VARIANT_KEY)
    if name not in variants:
        raise MismatchError(
            f"must name its variant under '{VARIANT_KEY}', one of {', '.join(variants)}, "
            f"got {show(name)}"
        )
    return {key: value for key, value in given.items() if key != VARIANT_KEY}, variants[str(name)]


def _is_one_of(origins: tuple[Any, ...], kind: Any) -> bool:
    return (get_origin(kind) or kind) in origins


def _call_with(factory: Callable[[Any, Converter], Hook], converter: Converter, kind: Any) -> Hook:
    return factory(kind, converter)


def _converter() -> Converter:
    """A converter that knows our rules; one per call, since its hooks keep no state of ours."""
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    plain: dict[Any, Hook] = {
        bool: _boolean,
        int: _whole_number,
        float: _number,
        str: _text,
        Path: _path,
    }
    for kind, hook in plain.items():
        converter.register_structure_hook(kind, hook)
    literal: Any = Literal
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is literal, _choice)
    holders: tuple[tuple[tuple[Any, ...], Any], ...] = (
        ((tuple, list, Sequence), _sequence_hook),
        ((dict, Mapping), _mapping_hook),
        ((Union, types.UnionType), _union_hook),
    )
    for origins, factory in holders:
        converter.register_structure_hook_factory(
            partial(_is_one_of, origins), partial(_call_with, factory, converter)
        )
    converter.register_structure_hook_factory(
        lambda kind: isinstance(kind, type) and dataclasses.is_dataclass(kind),
        lambda kind: _section_hook(kind, converter),
    )
    return converter


def _plain_field(config: Any, name: str, hint: Any) -> Any:
    value = getattr(config, name)
    plain = to_plain(value)
    if dataclasses.is_dataclass(value) and len(dataclasses_in(hint)) > 1:
        return {VARIANT_KEY: type(value).__name__, **plain}
    return plain
