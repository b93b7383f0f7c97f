"""Arrays of objects in .npy files, read without unpickling anything.

numpy writes such an array as a pickle: a small program that a reader runs. A hostile one calls any
function. Here the program is taken apart as data (`pickletools.genops` decodes it and runs nothing)
and rebuilt as plain values; the three names that numpy's own arrays need, and no others, are known,
and even these are not called: what they would make is built from its bytes.

Refused: every other name, every other instruction, arrays of anything but numbers inside the
array of objects, and anything before or after the one array.
"""

import math
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causeway.datasets.importers.foreign import refused
from causeway.datasets.importers.npy import OBJECTS, numeric_array, read_header

MAX_BYTES = 1 << 30  # of one file: it is decoded in memory
Cell = np.ndarray | float | int | bool

_ARRAY, _SCALAR, _DTYPE, _CLASS = "_reconstruct", "scalar", "dtype", "ndarray"
_KNOWN = {
    ("numpy.core.multiarray", _ARRAY): _ARRAY,
    ("numpy._core.multiarray", _ARRAY): _ARRAY,
    ("numpy.core.multiarray", _SCALAR): _SCALAR,
    ("numpy._core.multiarray", _SCALAR): _SCALAR,
    ("numpy", _DTYPE): _DTYPE,
    ("numpy", _CLASS): _CLASS,
}
_NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"})
_TEXTS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IDLE = frozenset({"PROTO", "FRAME"})


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that the program looked up."""

    word: str


@dataclass(slots=True)
class _Made:
    """What the program would have made by a call: never called."""

    word: str
    arguments: tuple[Any, ...]
    state: Any = None


class _Mark:
    """Where a sequence begins on the stack."""


def read_object_rows(path: Path, columns: int) -> list[list[Cell]]:
    """The rows of a two-dimensional array of objects, each a number or an array of numbers.

    Args:
        path: a .npy file.
        columns: how many there must be.

    Raises:
        DatasetError: the file is damaged, or holds or does anything else.
    """
    header = read_header(path)
    if header.kind != OBJECTS:
        what = f"must be an array of objects [steps, {columns}], got {header.kind} {header.shape}"
        raise refused(path, what)
    if len(header.shape) != 2 or header.shape[1] != columns or header.shape[0] < 1:
        raise refused(path, f"must have shape [steps, {columns}], got {header.shape}")
    if path.stat().st_size > MAX_BYTES:
        raise refused(path, f"must have at most {MAX_BYTES} bytes, got {path.stat().st_size}")
    try:
        program = path.read_bytes()[header.offset :]
        cells, shape = _array_of_objects(_rebuild(program))
        if shape != header.shape:
            raise ValueError(f"its header says shape {header.shape}, its array has {shape}")
        flat = [_number(cell) for cell in cells]
    # Which of these a damaged program leads to depends on the byte.
    except (ValueError, TypeError, IndexError, KeyError, OSError, OverflowError) as error:
        raise refused(path, f"must be an array as numpy writes it, but {_told(error)}") from error
    return [flat[step * columns : (step + 1) * columns] for step in range(shape[0])]


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _rebuild(program: bytes) -> Any:
    """The value that a pickle describes, with calls as `_Made`."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    length = 0
    for opcode, argument, position in pickletools.genops(program):
        length = (position or 0) + 1
        if opcode.name == "STOP":
            break
        _step(opcode.name, argument, stack, memo)
    if length != len(program):
        raise ValueError(f"{len(program) - length} bytes follow its end")
    (value,) = stack
    return value


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """One instruction of a pickle."""
    if name in _NUMBERS or name in _TEXTS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _TUPLES:
        stack[-_TUPLES[name] :] = [tuple(_top(stack, _TUPLES[name]))]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_Mark())
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name == "EMPTY_LIST":
        stack.append([])
    elif name == "APPEND":
        _extend(stack, [stack.pop()])
    elif name == "APPENDS":
        _extend(stack, _since_mark(stack))
    elif name == "GLOBAL":
        stack.append(_look_up(*argument.split(" ", 1)))
    elif name == "STACK_GLOBAL":
        word, module = stack.pop(), stack.pop()
        stack.append(_look_up(module, word))
    elif name == "REDUCE":
        arguments, callee = stack.pop(), stack.pop()
        stack.append(_call(callee, arguments))
    elif name == "BUILD":
        _build(stack.pop(), stack[-1])
    elif name not in _IDLE:
        raise ValueError(f"it has the instruction {name}, which is not carried out")


def _top(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise ValueError("it takes more values than there are")
    return stack[-count:]


def _since_mark(stack: list[Any]) -> list[Any]:
    values: list[Any] = []
    while not isinstance(stack[-1], _Mark):
        values.append(stack.pop())
    stack.pop()
    return values[::-1]


def _extend(stack: list[Any], values: list[Any]) -> None:
    if type(stack[-1]) is not list:
        raise ValueError("it appends to something that is no list")
    stack[-1].extend(values)


def _look_up(module: Any, word: Any) -> _Name:
    known = _KNOWN.get((module, word)) if isinstance(module, str) else None
    if known is None:
        raise ValueError(f"it names {str(module)[:40]}.{str(word)[:40]}, which is not looked up")
    return _Name(known)


def _call(callee: Any, arguments: Any) -> _Made:
    if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
        raise ValueError("it calls something that is no known name")
    return _Made(callee.word, arguments)


def _build(state: Any, made: Any) -> None:
    if not isinstance(made, _Made) or made.state is not None:
        raise ValueError("it sets the state of something that is no new array")
    made.state = state


def _array_of_objects(value: Any) -> tuple[list[Any], tuple[int, ...]]:
    """The cells, row by row whatever its order in memory was, and the shape of the whole array."""
    shape, kind, _, cells = _array_state(value)
    if kind != OBJECTS or type(cells) is not list or len(cells) != math.prod(shape):
        raise ValueError("it is no array of as many objects as its shape says")
    return cells, shape


def _number(value: Any) -> Cell:
    """A cell as a number or an array of numbers."""
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, _Made) and value.word == _SCALAR:
        kind, data = value.arguments
        return numeric_array(_kind(kind), (), data, "C")
    shape, kind, fortran, data = _array_state(value)
    return numeric_array(kind, shape, data, "F" if fortran else "C")


def _array_state(value: Any) -> tuple[tuple[int, ...], str, bool, Any]:
    """Shape, dtype, order and contents of an array, as numpy's own state has them."""
    if not isinstance(value, _Made) or value.word != _ARRAY:
        raise ValueError(f"it holds {type(value).__name__} where an array of numbers must be")
    if value.arguments[:1] != (_Name(_CLASS),) or not isinstance(value.state, tuple):
        raise ValueError("it holds an array of another class, or one without contents")
    _, shape, dtype, fortran, data = value.state
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"it holds an array of shape {str(shape)[:40]}")
    return shape, _kind(dtype), fortran is True, data


def _kind(value: Any) -> str:
    """The name of a dtype, with its byte order."""
    if not isinstance(value, _Made) or value.word != _DTYPE or not value.arguments:
        raise ValueError("it holds an array without a dtype")
    name = value.arguments[0]
    if name in ("O", "O8"):
        return OBJECTS
    order = value.state[1] if isinstance(value.state, Sequence) and len(value.state) > 1 else "|"
    if order not in ("<", ">", "|", "=") or not isinstance(name, str):
        raise ValueError(f"it holds an array of dtype {str(name)[:40]}")
    return f"{order}{name}"
