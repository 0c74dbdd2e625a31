"""Reads tensors from files that strangers made: safetensors, or a pickle in which nothing but tensors is taken.

What a file is follows from its first bytes, never from its name. No path leads from here to running what a file holds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.adapters.models.layouts import resolved
from pipeline.domain.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_HEADER_BYTES = 100_000_000
"""What safetensors allows its header to be."""
_MOST_GROUPS = 100_000


def kind_of(path: Path) -> str:
    """Return `safetensors`, `torch` (its zip archive), `pickle` (bare, as old torch wrote) or `unknown`.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(_ZIP):
        return "torch"
    if len(head) == 9 and head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _HEADER_BYTES:
        return "safetensors"
    return "pickle" if head.startswith(_PICKLE) else "unknown"


def read_tensors(path: Path, what: str, names: Mapping[str, tuple[int, ...]] | None = None) -> Mapping[str, Tensor]:
    """Return name -> CPU tensor of a file.

    Args:
        path: the file.
        what: how messages name it.
        names: name -> shape of the tensors that are wanted; a layout that is known under other names is mapped. None
            returns all, under the names that the file has; nested groups are joined by dots.

    Raises:
        ModelError: the file is cut short, no model, needs more than tensors, or lacks what `names` asks for.
    """
    try:
        kind = kind_of(path)
    except OSError as error:
        raise ModelError(f"{what}: cannot be read ({error.strerror}); check the file and its permissions") from None
    if kind == "unknown":
        raise ModelError(f"{what}: is no file of weights; give safetensors, or a state dict that torch.save wrote")
    if kind == "safetensors":
        return _from_safetensors(path, what, names)
    found = _from_torch(path, what)
    if names is None:
        return found
    named = resolved(_shapes(found), names, what)
    return {wanted: _derived(wanted, names[wanted]) if mine is None else found[mine] for wanted, mine in named.items()}


def describe(path: Path, what: str) -> dict[str, Any]:
    """Return what a file holds, read as `read_tensors` does: its form, how many tensors, their bytes and their groups.

    Raises:
        ModelError: as `read_tensors`.
    """
    tensors = read_tensors(path, what)
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    groups = sorted({name.partition(".")[0] for name in tensors})
    return {"form": kind_of(path), "tensors": len(tensors), "tensor_bytes": size, "groups": groups[:12]}


def _derived(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor that holds no weights: positions count up, step counters stand at 0."""
    import torch

    if name.endswith("position_ids"):
        return torch.arange(math.prod(shape)).reshape(shape)
    return torch.zeros(shape, dtype=torch.int64)


def _from_safetensors(path: Path, what: str, names: Mapping[str, tuple[int, ...]] | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if names is None:
                return {name: file.get_tensor(name) for name in shapes}
            named = resolved(shapes, names, what)
            return {
                wanted: _derived(wanted, names[wanted]) if mine is None else file.get_tensor(mine)
                for wanted, mine in named.items()
            }
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{what}: is damaged or cut short ({_said(error)}); fetch it again, or compare its digest with its source's"
        ) from None


def _from_torch(path: Path, what: str) -> dict[str, Tensor]:
    import pickle

    import torch

    try:
        # arrays stay in the file until they are used, where its form allows that
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=kind_of(path) == "torch")
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{what}: holds more than tensors ({_asked_for(error)}) and is not loaded; if you trust where it comes "
            f"from, run: facemint models convert {what} OUT.safetensors"
        ) from None
    except Exception as error:  # noqa: BLE001
        # torch has no one type for files that are cut short or not its own
        raise ModelError(
            f"{what}: is damaged, cut short or no state dict ({_said(error)}); fetch it again, or compare its digest"
        ) from None
    found = dict(flat(loaded))
    if not found:
        raise ModelError(f"{what}: holds no tensors; give a state dict, as torch.save or safetensors write it")
    return found


def flat(value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested groups, under names joined by dots; whatever else a checkpoint holds is left out.

    Groups may hold each other: no more than 100,000 are gone into, in the order of their depth.
    """
    import torch

    waiting = deque([("", value)])
    for _ in range(_MOST_GROUPS):
        if not waiting:
            return
        name, group = waiting.popleft()
        if isinstance(group, torch.Tensor):
            yield name, group.detach()
        elif isinstance(group, Mapping):
            for key, inner in group.items():
                if isinstance(inner, torch.Tensor | Mapping):
                    waiting.append((f"{name}.{key}" if name else str(key), inner))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _asked_for(error: Exception) -> str:
    import re

    found = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(
        r"Unsupported (?:class|global|operand)[^\n]*", str(error)
    )
    return f"it asks for {found[1]}" if found and found.lastindex else "its pickle asks for something else"


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0][:120] or type(error).__name__


__all__ = ["describe", "flat", "kind_of", "read_tensors"]
