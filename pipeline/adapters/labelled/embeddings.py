"""Embeddings that somebody computed already: `.npz`, `.npy` with labels beside it, or `.parquet`.

A file of vectors means nothing without its space, so one has to be declared, as JSON of `Space.to_dict()`:

- `faces.npz`: arrays `vectors` (N, D), `labels` (N,), and if wanted `names` (N,) and `space` (one string of JSON);
- `faces.npy` (N, D) beside `faces.labels.npy` or `faces.labels.txt` (one label a line);
- `faces.parquet`: columns `label` and `vector` (a list of floats), `name` if wanted; `space` in the file's metadata.

Where the file itself has no `space`, the side-car `<file>.json` holds it: `{"space": {...}}`. Nothing is unpickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import UserError
from pipeline.domain.ports import LabelledFace
from pipeline.domain.space import Space

SUFFIXES = (".npz", ".npy", ".parquet")
LARGEST_bytes = 16 << 30
"""An array that its header says to be larger is not allocated."""


class EmbeddingFile:
    """Implements `ports.LabelledFaces` over a file of vectors."""

    def __init__(self, path: Path) -> None:
        """Read the file's space; vectors are read when they are asked for.

        Raises:
            UserError: no such file, no space declared, or not readable as what its suffix says.
        """
        self.name = str(path)
        self._path = path
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path}: files of embeddings end in {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise UserError(f"{path}: no such file; name a file of embeddings")
        self.space: Space | None = self._space()

    def __iter__(self) -> Iterator[LabelledFace]:
        """Yield every vector in the order of the file.

        Raises:
            UserError: arrays of unequal length, of the wrong type, or damaged.
        """
        rows = _parquet_rows(self._path) if self._path.suffix == ".parquet" else self._array_rows()
        for number, (label, name, vector_D) in enumerate(rows):
            yield LabelledFace(label=label, name=name or f"row {number}", vector_D=vector_D)

    def _space(self) -> Space:
        raw = {".npz": _npz_space, ".npy": lambda _: None, ".parquet": _parquet_space}[self._path.suffix](self._path)
        if raw is None:
            sidecar = self._path.with_name(self._path.name + ".json")
            try:
                raw = _mapping(json.loads(sidecar.read_text(encoding="utf-8")), sidecar).get("space")
            except FileNotFoundError:
                raise UserError(
                    f"{self._path}: says of no space where its vectors live; write {sidecar.name} beside it: "
                    '{"space": {"name", "weights_sha256", "alignment", "norm", "dimensions"}}'
                ) from None
            except (ValueError, OSError) as error:
                raise UserError(f"{sidecar}: not readable as JSON ({error}); write it again") from None
        return _as_space(raw, self._path)

    def _array_rows(self) -> Iterator[tuple[str, str, npt.NDArray[np.float32]]]:
        names: list[str] | None = None
        if self._path.suffix == ".npz":
            arrays = _npz(self._path, ("vectors", "labels", "names"))
            for wanted in ("vectors", "labels"):
                if wanted not in arrays:
                    raise UserError(f"{self._path}: has no array {wanted!r}; it needs `vectors` and `labels`")
            vectors, labels = arrays["vectors"], _as_text(arrays["labels"], self._path, "labels")
            names = _as_text(arrays["names"], self._path, "names") if "names" in arrays else None
        else:
            with _opened(self._path) as file:
                vectors = _array(file, self._path.stat().st_size, self._path)
            labels = _labels_beside(self._path)
        assert self.space is not None
        if vectors.ndim != 2 or vectors.dtype.kind != "f" or vectors.shape[1] != self.space.dimensions:
            raise UserError(
                f"{self._path}: vectors of shape {vectors.shape} and type {vectors.dtype} where floats of shape "
                f"(N, {self.space.dimensions}) are expected, as its space says"
            )
        for what, column in (("labels", labels), ("names", names)):
            if column is not None and len(column) != len(vectors):
                raise UserError(f"{self._path}: {len(column)} {what} for {len(vectors)} vectors; give one for each")
        for number, (label, row) in enumerate(zip(labels, vectors, strict=True)):
            yield label, names[number] if names else "", row.astype(np.float32)


def _mapping(value: Any, where: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: got {type(value).__name__} where a mapping is expected")
    return value


def _as_space(raw: Any, where: Path) -> Space:
    try:
        space = Space.from_dict(_mapping(raw, where))
    except TypeError:
        raise UserError(
            f"{where}: a space has name, weights_sha256, alignment, norm and dimensions; got {', '.join(sorted(raw))}"
        ) from None
    typed = type(raw["dimensions"]) is int and all(isinstance(raw[k], str) for k in raw if k != "dimensions")
    if not typed or space.dimensions < 1 or space.norm not in ("unit", "raw"):
        raise UserError(f"{where}: its space {raw} is not one; norm is unit or raw, dimensions a whole number above 0")
    return space


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _array(file: IO[bytes], size_bytes: int, where: Path) -> npt.NDArray[Any]:
    """Return one stored array; its header must account for every byte, so that no header can ask for more."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(file)
        count = 1
        for length in shape:
            count *= length
        held = size_bytes - file.tell()
        if dtype.hasobject or count * dtype.itemsize != held or held > LARGEST_bytes:
            raise ValueError(f"its header claims {shape} of {dtype}, the file holds {held:,} bytes of it")
        flat = np.frombuffer(file.read(held), dtype=dtype)
        if flat.size != count:
            raise ValueError("cut short")
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, KeyError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise UserError(f"{where}: not a plain numpy array ({' '.join(str(error).split())[:160]})") from None


def _npz(path: Path, wanted: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.getinfo(f"{name}.npy") for name in wanted if f"{name}.npy" in archive.namelist()}
            arrays = {}
            for name, info in found.items():
                with archive.open(info) as file:
                    arrays[name] = _array(file, info.file_size, path)
            return arrays
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: not readable as npz ({error})") from None


def _npz_space(path: Path) -> Any:
    stored = _npz(path, ("space",)).get("space")
    if stored is None:
        return None
    try:
        return json.loads(str(stored[()]))
    except ValueError as error:
        raise UserError(f"{path}: `space` is not JSON ({error})") from None


def _as_text(array: npt.NDArray[Any], where: Path, what: str) -> list[str]:
    if array.ndim != 1 or array.dtype.kind not in "iuUS":
        raise UserError(
            f"{where}: {what} of shape {array.shape} and type {array.dtype}; whole numbers or text are read"
        )
    plain = array.tolist()
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in plain]


def _labels_beside(path: Path) -> list[str]:
    stored, text = path.with_name(f"{path.stem}.labels.npy"), path.with_name(f"{path.stem}.labels.txt")
    if stored.is_file():
        with _opened(stored) as file:
            return _as_text(_array(file, stored.stat().st_size, stored), stored, "labels")
    if text.is_file():
        try:
            return text.read_text(encoding="utf-8").splitlines()
        except (UnicodeDecodeError, OSError):
            raise UserError(f"{text}: not readable as UTF-8 text; write one label a line") from None
    raise UserError(f"{path}: no labels beside it; write {stored.name} or {text.name}")


def _parquet_space(path: Path) -> Any:
    with _parquet(path) as file:
        stored = (file.schema_arrow.metadata or {}).get(b"space")
    try:
        return None if stored is None else json.loads(stored)
    except ValueError as error:
        raise UserError(f"{path}: its metadata `space` is not JSON ({error})") from None


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as parquet ({' '.join(str(error).split())[:160]})") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, str, npt.NDArray[np.float32]]]:
    import pyarrow as pa

    with _parquet(path) as file:
        known = file.schema_arrow.names
        missing = [c for c in ("label", "vector") if c not in known]
        if missing:
            raise UserError(f"{path}: no column {', '.join(missing)}; it has {', '.join(known)}")
        columns = [c for c in ("label", "vector", "name") if c in known]
        try:
            for batch in file.iter_batches(4096, columns=columns):
                for row in batch.to_pylist():
                    vector = np.asarray(row["vector"], np.float32)
                    yield str(row["label"]), str(row.get("name") or ""), vector
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: damaged, or a vector is no list of floats ({str(error)[:160]})") from None
