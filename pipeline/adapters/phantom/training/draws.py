"""Renders the draws to disk in parallel and reads them back; a render that was stopped goes on where it was."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.adapters.phantom import ageing, traits, wide
from pipeline.adapters.phantom.training.config import Training
from pipeline.adapters.phantom.truth import REGIONS

_CHUNK = 32


@dataclass(frozen=True, eq=False)
class Drawn:
    """Rendered pictures with their truth. Rows of an identity lie together."""

    faces_NHWC: npt.NDArray[np.uint8]
    landmarks_N52: npt.NDArray[np.float32]
    owner_N: npt.NDArray[np.int64]
    identities_NT: npt.NDArray[np.float32]
    """Identity fields of every picture (not of every identity), as it shows them: with its age offset applied."""
    nuisances_NC: npt.NDArray[np.float32]

    def truth(self, name: str) -> npt.NDArray[np.float32]:
        """Return one field of every picture, of the identity or of the nuisance table, shape (N,)."""
        if name in {field.name for field in traits.IDENTITY_FIELDS}:
            return self.identities_NT[:, traits.identity_column(name)]
        return self.nuisances_NC[:, traits.nuisance_column(name)]


def rows_of(
    config: Training, name: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return owner, identity fields and nuisance fields of every picture of a draw, as `renderer.render` takes them."""
    draw = config.draws[name]
    owner_N = np.repeat(np.arange(draw.identities), draw.pictures)
    people = config.draws[draw.people_of or name]
    identities = traits.sample_identities(people.identities, config.rng("identities", people.number), people.tones_mst)
    nuisances = traits.sample_nuisances(len(owner_N), config.rng("nuisances", draw.number))
    if draw.aged:
        nuisances = wide.shown_at_other_ages(nuisances, config.rng("wide", draw.number))
    if draw.wide:
        nuisances = wide.widen(nuisances, config.rng("wide", draw.number))
    return owner_N, identities[owner_N], nuisances


def render_draw(config: Training, name: str, workers: int) -> None:
    """Render a draw with `workers` processes; chunks that are already on disk are kept."""
    folder = config.home / "draws" / name
    folder.mkdir(parents=True, exist_ok=True)
    count = config.draws[name].identities * config.draws[name].pictures
    chunks = -(-count // _CHUNK)
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=_render_chunks, args=(config, name, w, workers)) for w in range(workers)]
    for process in started:
        process.start()
    columns = (TextColumn("render {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(name, total=chunks)
        while any(process.is_alive() for process in started):
            progress.update(task, completed=len(list(folder.glob("chunk-*.npz"))))
            time.sleep(1.0)
        progress.update(task, completed=len(list(folder.glob("chunk-*.npz"))))
    for process in started:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"rendering draw {name} failed in a worker with status {process.exitcode}")
    _assemble(folder, count, chunks)


def _render_chunks(config: Training, name: str, worker: int, workers: int) -> None:
    import torch

    from pipeline.adapters.phantom import renderer

    torch.set_num_threads(1)
    folder = config.home / "draws" / name
    _, identities, nuisances = rows_of(config, name)
    for chunk in range(worker, -(-len(identities) // _CHUNK), workers):
        path = folder / f"chunk-{chunk:05d}.npz"
        if path.exists() or (folder / "faces.npy").exists():
            continue
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        if config.draws[name].wide:
            drawn, told = renderer.render_with_truth(identities[part], nuisances[part], supersample=config.supersample)
            truth = {"visible": told.visible_N5, "hidden": told.hidden_NR}
        else:
            drawn, truth = renderer.render(identities[part], nuisances[part], supersample=config.supersample), {}
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, faces=drawn.faces_NHWC, landmarks=drawn.landmarks_N52, **truth)
        partial.replace(path)


def _assemble(folder: Path, count: int, chunks: int) -> None:
    """Join the chunks into two arrays that are read through memory maps, then drop them."""
    if (folder / "faces.npy").exists():
        return
    faces = np.lib.format.open_memmap(folder / "faces.partial", mode="w+", dtype=np.uint8, shape=(count, 112, 112, 3))
    told: dict[str, list[npt.NDArray[Any]]] = {}
    for chunk in range(chunks):
        with np.load(folder / f"chunk-{chunk:05d}.npz") as part:
            faces[chunk * _CHUNK : chunk * _CHUNK + len(part["faces"])] = part["faces"]
            for key in set(part.files) - {"faces"}:
                told.setdefault(key, []).append(part[key])
    faces.flush()
    for key, parts in told.items():
        np.save(folder / f"{key}.npy", np.concatenate(parts))
    (folder / "faces.partial").replace(folder / "faces.npy")
    for path in folder.glob("chunk-*.npz"):
        path.unlink()


def load_draws(config: Training, names: tuple[str, ...], *, faces_too: bool = True) -> Drawn:
    """Return one or more rendered draws as one, identities numbered on; faces stay on disk for a single draw.

    Without `faces_too` there are no faces in it: who needs the truth alone saves their memory.
    """
    faces, points, owners, identities, nuisances = [], [], [], [], []
    first = 0
    for name in names:
        folder = config.home / "draws" / name
        if not (folder / "faces.npy").exists():
            raise FileNotFoundError(f"draw {name} is not rendered in {folder}; run the stage `render` first")
        owner, who, how = rows_of(config, name)
        stored = np.load(folder / "faces.npy", mmap_mode="r")
        faces.append(stored if faces_too else stored[:0])
        points.append(np.load(folder / "landmarks.npy"))
        owners.append(owner + first)
        identities.append(ageing.aged(who, how))
        nuisances.append(how)
        first += config.draws[name].identities
    whole = faces[0] if len(faces) == 1 else np.concatenate(faces)
    return Drawn(whole, *(np.concatenate(parts) for parts in (points, owners, identities, nuisances)))


def load_truth(config: Training, names: tuple[str, ...]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Return which landmarks of every picture are seen (N, 5) and how much of each face region is covered (N, regions).

    The rows are those of `load_draws`; `renderer.Truth` says what the values mean. Only wide draws are rendered with
    this truth. Of ordinary ones, where hair and the frames of glasses are all that can hide anything, it says that
    nothing is hidden.
    """
    visible, hidden = [], []
    for name in names:
        folder, count = config.home / "draws" / name, config.draws[name].identities * config.draws[name].pictures
        if not config.draws[name].wide:
            visible.append(np.ones((count, 5), np.bool_))
            hidden.append(np.zeros((count, len(REGIONS)), np.float32))
        elif not (folder / "hidden.npy").exists():
            raise FileNotFoundError(f"draw {name} is not rendered in {folder}; run the stage `render` first")
        else:
            visible.append(np.load(folder / "visible.npy"))
            hidden.append(np.load(folder / "hidden.npy"))
    return np.concatenate(visible), np.concatenate(hidden)
