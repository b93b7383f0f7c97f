"""The YAML that configurations are written in: version 1.2's plain values, no surprises.

PyYAML reads YAML 1.1, where `3e-4` is text, `off` is false, `010` is eight, `12:30` is 750 and the
second of two equal keys wins in silence. Each of these has cost somebody a training run.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml


class ConfigError(ValueError):
    """A configuration that cannot be used; its one argument says what to change."""


_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+)$")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9_]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_PLAIN_VALUES = (  # the first match decides, so integers stand before floats
    ("null", re.compile(r"(?:~|null|Null|NULL|)$")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")),
    ("int", _INTEGER),
    ("float", _FLOAT),
    ("merge", re.compile(r"<<$")),
)


class _Loader(yaml.SafeLoader):
    """Reads plain values as YAML 1.2 does and refuses a key given twice."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # PyYAML's own form

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the text that `_Loader` would read as something else."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # PyYAML's own form

    def ignore_aliases(self, data: Any) -> bool:
        """Writes equal values out in full: anchors do not help a reader."""
        return True

    def write_list(self, values: list[Any]) -> yaml.Node:
        """Puts a list of plain values on one line."""
        plain = not any(isinstance(value, (list, dict)) for value in values)
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=plain)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value.replace("_", ""), 0)


for _kind in (_Loader, _Dumper):
    for _name, _pattern in _PLAIN_VALUES:
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, None)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_write_list: Callable[[_Dumper, list[Any]], yaml.Node] = _Dumper.write_list
_Dumper.add_representer(list, _write_list)


def parse_yaml(text: str, source: str) -> Any:
    """The value that a YAML text stands for.

    Args:
        text: one YAML document.
        source: where the text is from, for the error.

    Raises:
        ConfigError: the text is not YAML, or gives a key twice; names line and column.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{place}: {error.problem or error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: {error}") from None


def format_yaml(plain: Any) -> str:
    """Plain values (mappings, lists, numbers, text) as YAML that `parse_yaml` reads back equal."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
