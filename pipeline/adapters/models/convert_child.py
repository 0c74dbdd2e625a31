"""The process that reads a pickle nobody vouches for: on an allow-list, under limits, without a network.

It is told one JSON object as its argument, writes the tensors to the file that this names, and answers with one JSON
object on standard output. Three fences, each enough for the pickles that are known to do harm:

1. the unpickler knows the few names that tensors are made of; names of bookkeeping become objects that do nothing, and
   their modules are never imported; any other name ends the conversion;
2. an audit hook refuses processes, sockets, and files opened for writing other than the one that is asked for;
3. limits on memory, processor time and file size, and, where the kernel allows it, a network of its own with nobody in.
"""

from __future__ import annotations

import importlib
import io
import json
import pickle
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.adapters.confining import answers
from pipeline.adapters.models.child_limits import alone_on_the_network, limit_resources, watch
from pipeline.adapters.models.reading import flat

BOOKKEEPING = (
    "_codecs.encode", "argparse.Namespace", "collections.Counter", "collections.defaultdict", "datetime.",
    "functools.partial", "hydra.", "lightning.", "lightning_fabric.", "lightning_utilities.", "numpy.", "omegaconf.",
    "pathlib.", "pytorch_lightning.", "torch.optim.", "typing.", "yacs.",
)  # fmt: skip
"""What checkpoints hold beside tensors: it is left out, and never imported. A dot at the end stands for all below."""
_BUILTINS = {"set": set, "frozenset": frozenset, "bytearray": bytearray, "complex": complex, "slice": slice}
_STORAGES = tuple(
    f"{kind}Storage"
    for kind in ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short", "Untyped")
)
_REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
_DTYPES = (
    "bfloat16", "bool", "float16", "float32", "float64", "half", "int16", "int32", "int64", "int8", "uint8",
)  # fmt: skip


class RefusedError(Exception):
    """The file asks for what no state dict needs, or holds no tensors."""


class Inert:
    """Stands where bookkeeping was: takes whatever it is built with, keeps nothing, does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Inert:
        """Return one; the arguments are dropped."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_kwargs: Any) -> Inert:
        """Return itself: what was a function gives nothing."""
        return self

    def __setstate__(self, _state: Any) -> None:
        """Drop a state."""

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Drop an item."""

    def append(self, _value: Any) -> None:
        """Drop an item."""

    def extend(self, _values: Any) -> None:
        """Drop items."""

    def add(self, _value: Any) -> None:
        """Drop an item."""


def allowed(ignored: tuple[str, ...], dropped: set[str]) -> Any:
    """Return the module that torch is handed in place of `pickle`; names of what is left out are added to `dropped`."""
    import torch

    names: dict[str, Any] = {"collections.OrderedDict": OrderedDict, "torch.Size": torch.Size}
    names |= {f"torch._utils.{name}": getattr(torch._utils, name) for name in _REBUILDERS}
    names |= {f"torch.{name}": getattr(torch, name) for name in (*_STORAGES, *_DTYPES)}
    names["torch.storage.UntypedStorage"] = torch.UntypedStorage
    for builtins in ("builtins", "__builtin__"):
        names |= {f"{builtins}.{name}": value for name, value in _BUILTINS.items()}

    class Restricted(pickle.Unpickler):
        """Finds what tensors are made of, and nothing else."""

        def find_class(self, module: str, name: str) -> Any:
            full = f"{module}.{name}"
            if full in names:
                return names[full]
            if any(full == known or (known.endswith(".") and full.startswith(known)) for known in ignored):
                dropped.add(full)
                return type("Inert", (Inert,), {})
            raise RefusedError(full)

    class Module:
        """What torch uses of `pickle`."""

        Unpickler = Restricted
        UnpicklingError = pickle.UnpicklingError

        @staticmethod
        def load(file: Any, **_options: Any) -> Any:
            """Return what a stream holds."""
            return Restricted(file).load()

        @staticmethod
        def loads(data: bytes, **_options: Any) -> Any:
            """Return what bytes hold."""
            return Restricted(io.BytesIO(data)).load()

    Module.__name__ = "pickle"
    return Module


def convert(told: Mapping[str, Any]) -> dict[str, Any]:
    """Read a pickle and write its tensors; returns what is answered.

    Raises:
        RefusedError: see above; its text is the name that was asked for, or what is missing.
    """
    import torch
    from safetensors.torch import save_file

    dropped: set[str] = set()
    module = allowed((*BOOKKEEPING, *told["ignore"]), dropped)
    loaded = torch.load(told["source"], map_location="cpu", weights_only=False, pickle_module=module, mmap=False)
    found = dict(flat(loaded))
    if told["section"]:
        group = f"{told['section']}."
        found = {name.removeprefix(group): value for name, value in found.items() if name.startswith(group)}
    if not found:
        tops = sorted({str(key) for key in loaded} if isinstance(loaded, Mapping) else set())
        return {"empty": tops[:20]}
    # tensors that share memory are written twice: the format knows no sharing
    save_file({name: value.contiguous().clone() for name, value in found.items()}, told["target"])
    size = sum(value.numel() * value.element_size() for value in found.values())
    return {"tensors": len(found), "bytes": size, "left_out": sorted(dropped)}


def main(arguments: list[str]) -> int:
    """Convert one file, and say how it went."""
    told = json.loads(arguments[0])
    out = answers()
    fenced = alone_on_the_network()
    # imported before anything is limited: a library must not be half loaded when memory runs out
    for name in ("torch", "safetensors.torch"):
        importlib.import_module(name)
    limit_resources(Path(told["source"]).stat().st_size)
    watch(told["target"])
    answer: dict[str, Any]
    try:
        answer = convert(told) | {"network_fenced": fenced}
    except RefusedError as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"failed": "it needs more memory than a file of its size should"}
    except Exception as error:  # noqa: BLE001
        # whatever a hostile file provokes is told in one line
        answer = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    out.write(json.dumps(answer).encode())
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
