"""Weights of published models as recipes name them, and the promise of whoever brings them.

A reference says where a file lies and which bytes it must be; adapters read tensors through the port alone, so that
caches, digests, safe formats and rehearsals with made-up weights are one thing, in one place. A network made of them
loads at its first use, in the process that uses it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field

from pipeline.domain.recipe import Section


class WeightsRef(Section):
    """Where a model's weights are.

    Attributes:
        uri: a path of this machine, an fsspec address (`s3://...`), or `hf://owner/name@revision/file` with a commit as
            its revision.
        sha256: which bytes they must be; other bytes are refused. None takes what is there, and the run's record states
            its digest.
    """

    uri: Annotated[str, Field(min_length=1, max_length=2000)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class Weights(Protocol):
    """Brings weights: from a path, a bucket, a hub, or made up by formula for a rehearsal."""

    def path(self, ref: WeightsRef) -> Path:
        """Return the local file with the reference's bytes, digest checked.

        Raises:
            ModelError: it is missing, cannot be fetched, or holds other bytes; one line says what to do.
        """
        ...

    def sha256(self, ref: WeightsRef) -> str:
        """Return the digest of the reference's bytes."""
        ...

    def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]] | None = None) -> Mapping[str, Any]:
        """Return name -> CPU tensor, read safely (safetensors, or a pickle that holds tensors alone).

        Args:
            ref: which weights.
            names: name -> shape of the tensors that are wanted; every one must be there in this shape, others are
                left out. None returns all that the file holds.

        Raises:
            ModelError: as `path`; or the file needs more than tensors (the message names `facemint models convert`), is
                cut short, or lacks what `names` asks for.
        """
        ...


class LoadedAtUse:
    """A network that loads at its first use, once however many threads ask for it, and lies on one device.

    Args:
        load: returns the network, a torch module. What it raises reaches whoever asked; who asks next has it try again.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._loading = threading.Lock()
        self._network: Any = None

    def on(self, device: Any = None) -> Any:
        """Return the network, on a device where one is named: it stays there until another is asked for."""
        with self._loading:
            if self._network is None:
                self._network = self._load()
            if device is not None and next(self._network.parameters()).device != device:
                self._network = self._network.to(device)
            return self._network
