"""Writes small ONNX files, so that adapters of models that are not here are tried with models that are made up."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

IR_VERSION, OPSET, FLOAT, INT64 = 8, 13, 1, 7
Shape = Sequence[int | str]


def _varint(number: int) -> bytes:
    out = bytearray()
    while True:
        out.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(out)


def _field(number: int, value: Any) -> bytes:
    """Return one field of a protocol buffer: a whole number, or bytes (text as UTF-8)."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _value(name: str, shape: Shape) -> bytes:
    dims = b"".join(_field(1, _field(1, d) if isinstance(d, int) else _field(2, d)) for d in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims)))


def _tensor(name: str, array: np.ndarray) -> bytes:
    whole = array.dtype.kind == "i"
    dims, kind = b"".join(_field(1, n) for n in array.shape), INT64 if whole else FLOAT
    raw = np.ascontiguousarray(array, "<i8" if whole else "<f4").tobytes()
    return dims + _field(2, kind) + _field(8, name) + _field(9, raw)


def _attribute(name: str, value: int | float | Sequence[int]) -> bytes:
    if isinstance(value, float):
        return _field(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + _field(20, 1)
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, 2)
    return _field(1, name) + b"".join(_field(8, v) for v in value) + _field(20, 7)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> bytes:
    """Return one operation."""
    parts = [_field(1, name) for name in inputs] + [_field(2, name) for name in outputs] + [_field(4, op)]
    return b"".join(parts + [_field(5, _attribute(k, v)) for k, v in attributes.items()])


def model(
    nodes: Sequence[bytes],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """Return the bytes of an ONNX file; a dimension that is a word may have any size."""
    graph = b"".join(_field(1, one) for one in nodes) + _field(2, "made up")
    graph += b"".join(_field(5, _tensor(k, v)) for k, v in (constants or {}).items())
    graph += b"".join(_field(11, _value(k, v)) for k, v in inputs.items())
    graph += b"".join(_field(12, _value(k, v)) for k, v in outputs.items())
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(1, "") + _field(2, OPSET))


def colours(weights: np.ndarray, side: int = 112, batch: int | str = "n") -> bytes:
    """Return a model that gives `weights` (3, K) times the mean of each of three planes: K numbers a picture."""
    count = weights.shape[1]
    return model(
        [node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0), node("MatMul", ["mean", "w"], ["y"])],
        {"x": (batch, 3, side, side)},
        {"y": (batch, count)},
        {"w": weights},
    )
