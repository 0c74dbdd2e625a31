"""Reads the pickles that verification sets come in, without unpickling: a small machine that knows plain data only.

A pickle is a program; the standard reader runs it. Here its opcodes are stepped through one by one, and the only
things they can build are None, truth values, numbers, text, bytes, lists, tuples and numpy's plain arrays and scalars,
held as our own values until they are checked. Whatever else is named is refused by name. No opcode allocates more than
the file holds: every length is compared with what is there, memo places are a mapping, and no call copies.

The format is that of Python's `pickletools`, protocols 0 to 5.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST_STEPS = 20_000_000
_DTYPES = ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
_LARGEST_NUMBER_bytes = 16


class RefusedPickleError(ValueError):
    """The pickle names or builds something that is not plain data."""


@dataclass(slots=True)
class _Dtype:
    """A numpy dtype by its name, until an array is made of it."""

    name: str
    order: str = "="

    def resolve(self) -> np.dtype[Any]:
        return np.dtype(self.name).newbyteorder(">" if self.order == ">" else "<")


@dataclass(slots=True)
class _Array:
    """A numpy array before its state is set, and what later references to it find afterwards."""

    value: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


def _codecs_encode(text: Any, encoding: Any = "latin1") -> bytes:
    # protocol 2 of Python 3 writes bytes as text that is encoded when read
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedPickleError("_codecs.encode of something that is no latin-1 text")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise RefusedPickleError("_codecs.encode of something that is no latin-1 text") from None


def _no_bytes() -> bytes:
    # protocols 0 to 2 of Python 3 write empty bytes as a call of `bytes` without arguments
    return b""


def _dtype(name: Any, *_flags: Any) -> _Dtype:
    plain = name.decode("latin-1") if isinstance(name, bytes) else name
    if plain not in _DTYPES:
        raise RefusedPickleError(f"numpy.dtype {str(plain)[:40]!r}; known: {', '.join(_DTYPES)}")
    return _Dtype(plain)


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise RefusedPickleError("a numpy scalar that is not made of a dtype and bytes")
    resolved = dtype.resolve()
    if len(data) != resolved.itemsize:
        raise RefusedPickleError(f"a numpy scalar of {len(data)} bytes where {resolved.itemsize} are expected")
    return np.frombuffer(data, resolved)[0].item()


def _reconstruct(kind: Any, *_rest: Any) -> _Array:
    if not isinstance(kind, _Global) or kind.name != "numpy.ndarray":
        raise RefusedPickleError("an array of a class of its own")
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_axes: Any) -> npt.NDArray[Any]:
    return _checked_array(shape, dtype, data, order == "F")


def _checked_array(shape: Any, dtype: Any, data: Any, fortran: Any) -> npt.NDArray[Any]:
    plain_shape = isinstance(shape, tuple) and len(shape) <= 4 and all(type(n) is int and n >= 0 for n in shape)
    if not plain_shape or not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise RefusedPickleError("an array that is not made of a shape, a plain dtype and bytes")
    resolved, count = dtype.resolve(), 1
    for length in shape:
        count *= length
    if count * resolved.itemsize != len(data):
        raise RefusedPickleError(f"an array of shape {shape} and {resolved} that holds {len(data)} bytes")
    return np.frombuffer(data, resolved).reshape(shape, order="F" if fortran else "C")


_CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _codecs_encode,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    "numpy.dtype": _dtype,
}
for _home in ("numpy.core", "numpy._core"):
    _CALLS |= {
        f"{_home}.multiarray._reconstruct": _reconstruct,
        f"{_home}.multiarray.scalar": _scalar,
        f"{_home}.numeric._frombuffer": _from_buffer,
    }
_NAMES = {*_CALLS, "numpy.ndarray"}
_MARK = object()


@dataclass(slots=True)
class _Machine:
    """The stack and the memo of one pickle."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise RefusedPickleError("takes a value where there is none")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise RefusedPickleError("takes a value where there is none")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                found = self.stack[place + 1 :]
                del self.stack[place:]
                return found
        raise RefusedPickleError("takes values up to a mark where there is none")

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or function.name not in _CALLS or not isinstance(arguments, tuple):
            raise RefusedPickleError("calls something that is no known function")
        try:
            self.stack.append(_CALLS[function.name](*arguments))
        except TypeError:
            raise RefusedPickleError(f"calls {function.name} with {len(arguments)} arguments") from None

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) > 1:
            order = state[1].decode("latin-1") if isinstance(state[1], bytes) else state[1]
            if order not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
                raise RefusedPickleError("a numpy dtype with fields or an unknown byte order")
            self.stack.append(target)
            target.order = order
        elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            target.value = _checked_array(state[1], state[2], state[4], state[3])
            self.stack.append(target.value)
        else:
            raise RefusedPickleError(f"sets the state of a {type(target).__name__.strip('_').lower()}")

    def recall(self, place: int) -> Any:
        if place not in self.memo:
            raise RefusedPickleError("recalls a value that it never kept")
        kept = self.memo[place]
        return kept.value if isinstance(kept, _Array) and kept.value is not None else kept

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise RefusedPickleError(f"appends to a {type(target).__name__}")
        target.extend(values)


def _bytes_of(text: Any) -> bytes:
    # Python 2 wrote bytes as strings; pickletools reads these as latin-1
    return text if isinstance(text, bytes) else str(text).encode("latin-1")


def _global(machine: _Machine, name: str) -> None:
    if name not in _NAMES:
        raise RefusedPickleError(f"it names {name[:80]!r}, which is neither plain data nor a plain numpy array")
    machine.stack.append(_Global(name))


def _step(machine: _Machine, opcode: str, argument: Any) -> None:
    """Do one opcode; raises RefusedPickleError on any that plain data has no use for."""
    push, stack = machine.stack.append, machine.stack
    if opcode in ("PROTO", "FRAME", "STOP"):
        pass
    elif opcode == "MARK":
        push(_MARK)
    elif opcode in ("NONE", "NEWTRUE", "NEWFALSE"):
        push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
    elif opcode in ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "BINFLOAT", "FLOAT"):
        if isinstance(argument, int) and argument.bit_length() > 8 * _LARGEST_NUMBER_bytes:
            raise RefusedPickleError("a number of more than 16 bytes")
        push(argument)
    elif opcode in ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"):
        push(bytes(argument))
    elif opcode in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
        push(_bytes_of(argument))
    elif opcode in ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
        push(argument)
    elif opcode in ("EMPTY_LIST", "EMPTY_TUPLE"):
        push([] if opcode == "EMPTY_LIST" else ())
    elif opcode in ("LIST", "TUPLE"):
        items = machine.pop_to_mark()
        push(items if opcode == "LIST" else tuple(items))
    elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
        push(tuple([machine.pop() for _ in range(int(opcode[-1]))][::-1]))
    elif opcode == "APPEND":
        item = machine.pop()
        machine.append([item])
    elif opcode == "APPENDS":
        items = machine.pop_to_mark()
        machine.append(items)
    elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
        machine.memo[int(argument)] = machine.top()
    elif opcode == "MEMOIZE":
        machine.memo[len(machine.memo)] = machine.top()
    elif opcode in ("GET", "BINGET", "LONG_BINGET"):
        push(machine.recall(int(argument)))
    elif opcode == "POP":
        machine.pop()
    elif opcode == "POP_MARK":
        machine.pop_to_mark()
    elif opcode == "GLOBAL":
        _global(machine, str(argument).replace(" ", ".", 1))
    elif opcode == "STACK_GLOBAL":
        name, module = machine.pop(), machine.pop()
        _global(machine, f"{module}.{name}")
    elif opcode == "REDUCE":
        machine.call()
    elif opcode == "BUILD":
        machine.build()
    else:
        raise RefusedPickleError(f"opcode {opcode}, which plain data has no use for (stack of {len(stack)})")


def plain_data(data: bytes) -> Any:
    """Return what a pickle of plain data holds; arrays are views of `data` that cannot be written to.

    Raises:
        RefusedPickleError: it names anything else, or is no whole pickle.
    """
    machine = _Machine()
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if steps > _MOST_STEPS:
                raise RefusedPickleError(f"more than {_MOST_STEPS:,} steps")
            _step(machine, opcode.name, argument)
    except RefusedPickleError:
        raise
    except (ValueError, OverflowError, UnicodeDecodeError, MemoryError, RecursionError) as error:
        raise RefusedPickleError(f"no whole pickle ({' '.join(str(error).split())[:120]})") from None
    if len(machine.stack) != 1:
        raise RefusedPickleError(f"it leaves {len(machine.stack)} values where one is expected")
    return machine.pop()
