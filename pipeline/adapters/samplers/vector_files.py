"""Files of identity vectors: read with what they say of themselves, and written.

A file of vectors means nothing without its space. A `.safetensors` file says it in its metadata, as does a `.parquet`;
an `.npy` or `.npz` in a side-car, `<file>.json`: `{"space": {...}, "licence": ..., "real_people": ...,
"lawful_basis": ...}`. Vectors are the rows of one matrix: the tensor, array or column `vectors` (`vector` in a
`.parquet`), or the only one there. Nothing is unpickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import UserError
from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.records import Float32
from pipeline.domain.space import Space

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
METADATA = "facemint"
"""Key of the metadata of `.safetensors` and `.parquet` that holds the JSON of what a file says of itself."""


@dataclass(frozen=True, slots=True, eq=False)
class VectorFile:
    """Identity vectors with what their file says of them.

    Attributes:
        rows_ND: float32, finite, none of length 0.
        sha256: digest of the file.
        says: `space`, `licence`, `real_people`, `lawful_basis` and more, as far as the file says them.
    """

    rows_ND: Float32
    sha256: str
    says: Mapping[str, Any]

    def space(self, where: str) -> Space | None:
        """Return the space that the file declares, None where it declares none."""
        raw = self.says.get("space")
        if raw is None:
            return None
        try:
            return Space.from_dict(dict(raw))
        except (TypeError, ValueError):
            raise UserError(
                f"{where}: its space is not one; it has name, weights_sha256, alignment, norm and dimensions"
            ) from None


def read_vectors(path: Path) -> VectorFile:
    """Return the vectors of a file; a process reads a file that did not change once.

    Raises:
        UserError: no such file, not readable as what its suffix says, or vectors that are none.
    """
    try:
        stat = path.stat()
    except OSError:
        raise UserError(f"{path}: no such file; name a file of vectors, one of {', '.join(SUFFIXES)}") from None
    return _read(path, stat.st_size, stat.st_mtime_ns)


def vector_file_bytes(vectors_ND: Float32, says: Mapping[str, Any]) -> bytes:
    """Return a `.safetensors` file of vectors; equal arguments give equal bytes."""
    from safetensors.numpy import save

    rows = np.ascontiguousarray(vectors_ND, np.float32)
    return bytes(save({"vectors": rows}, metadata={METADATA: canonical_json(says).decode()}))


@lru_cache(maxsize=2)
def _read(path: Path, _size_bytes: int, _mtime_ns: int) -> VectorFile:
    readers = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"{path}: files of vectors end in {', '.join(SUFFIXES)}")
    try:
        data = path.read_bytes()
        raw, says = readers[path.suffix](path)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not readable as {path.suffix} ({' '.join(str(error).split())[:160]})") from None
    if raw.ndim != 2 or raw.dtype.kind != "f" or not raw.size:
        raise UserError(f"{path}: got {raw.dtype} of shape {raw.shape}; identity vectors are rows of floats, (N, D)")
    rows = np.ascontiguousarray(raw, np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 1e-6)))
    if bad.size:
        raise UserError(
            f"{path}: row {int(bad[0])} has length {lengths[bad[0]]:.6g} ({bad.size} of {len(rows)} rows); every "
            "vector is finite and has a length; remove those that are not"
        )
    rows.flags.writeable = False
    return VectorFile(rows, sha256_hex(data), says)


def _npy(path: Path) -> tuple[npt.NDArray[Any], Mapping[str, Any]]:
    return np.load(path, allow_pickle=False), _sidecar(path)


def _npz(path: Path) -> tuple[npt.NDArray[Any], Mapping[str, Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[_only(arrays.files, "vectors", path)], _sidecar(path)


def _safetensors(path: Path) -> tuple[npt.NDArray[Any], Mapping[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            said = (file.metadata() or {}).get(METADATA)
            return file.get_tensor(_only(list(file.keys()), "vectors", path)), _parsed(said, path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _parquet(path: Path) -> tuple[npt.NDArray[Any], Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    schema = pq.read_schema(path)
    name = _only([f.name for f in schema if any(is_list(f.type) for is_list in lists)], "vector", path)
    rows = pq.read_table(path, columns=[name])[name].to_pylist()
    said = (schema.metadata or {}).get(METADATA.encode(), b"").decode()
    return np.array(rows, np.float32), _parsed(said, path)


def _only(names: list[str], usual: str, path: Path) -> str:
    if usual in names:
        return usual
    if len(names) != 1:
        raise UserError(f"{path}: holds {', '.join(sorted(names)) or 'nothing'}; name its vectors {usual!r}")
    return names[0]


def _sidecar(path: Path) -> Mapping[str, Any]:
    beside = path.with_name(path.name + ".json")
    return _parsed(beside.read_text(encoding="utf-8"), beside) if beside.is_file() else {}


def _parsed(text: str | None, path: Path) -> Mapping[str, Any]:
    if not text:
        return {}
    said = json.loads(text)
    if not isinstance(said, dict):
        raise UserError(f"{path}: got {type(said).__name__} where a mapping is expected")
    return said
