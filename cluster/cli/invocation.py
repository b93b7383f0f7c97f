"""What the user typed, taken apart before any command sees it.

Overrides of the configuration look like options but are not declared by any command: their names
are the configuration's. A dot in the name tells them apart, wherever they stand on the line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One call of `causeway`."""

    words: tuple[str, ...] = ()  # for the commands
    overrides: tuple[str, ...] = ()  # `--section.key value` pairs, for `load_config`
    debug: bool = False


def split_arguments(arguments: Sequence[str]) -> Invocation:
    """The arguments as words for the commands, overrides and `--debug`.

    An override without a value keeps its place at the end, for `load_config` to complain about.
    """
    words: list[str] = []
    overrides: list[str] = []
    debug = False
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            words += [word, *rest]
        elif word == "--debug":
            debug = True
        elif word.startswith("--") and "." in word.partition("=")[0]:
            overrides.append(word)
            if "=" not in word and (value := next(rest, None)) is not None:
                overrides.append(value)
        else:
            words.append(word)
    return Invocation(words=tuple(words), overrides=tuple(overrides), debug=debug)


def overrides_of(context: Any) -> tuple[str, ...]:
    """The overrides that belong to a command's run; `context` is its `typer.Context`."""
    invocation = context.find_root().obj
    return invocation.overrides if isinstance(invocation, Invocation) else ()
