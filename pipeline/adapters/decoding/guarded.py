"""Decoding in a process of its own: a native crash, a runaway decode or a bomb costs one image, never the run.

The child (`pipeline.adapters.decoding.child`) lives as long as it decodes well, so a start is paid once. It may use so
much memory and, per image, so much processor time: processor time and not the clock, because whether an image is
refused must not depend on how busy the machine is. An image whose child dies is tried once more in a fresh one before
it is blamed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from pipeline.domain.errors import WorkerStartError
from pipeline.domain.intake import Decoded, DecodeLimits, Reason, Refusal

READY = b"ready"
_HUNG_s = 60.0
"""So long past its processor time a child may sit still (a stalled disk, a stopped machine) before it is killed."""


class _DiedError(Exception):
    """The child ended in the middle of an image."""

    def __init__(self, reason: Reason, found: str, value: float | None = None, threshold: float | None = None) -> None:
        super().__init__(found)
        self.refusal = Refusal(reason, found, value, threshold)


class GuardedDecoder:
    """Decodes images one by one in a child process. May be shared by threads: they take turns.

    Args:
        limits: what is decoded at all.
        first_frame: take an animation's first frame instead of refusing it.
        cpu_s: processor seconds that one image may take.
        memory_bytes: address space that the child may use.
    """

    def __init__(
        self,
        limits: DecodeLimits | None = None,
        *,
        first_frame: bool = False,
        cpu_s: int = 20,
        memory_bytes: int = 3_000_000_000,
    ) -> None:
        self._told = {
            "limits": asdict(limits or DecodeLimits()),
            "first_frame": first_frame,
            "cpu_s": cpu_s,
            "memory_bytes": memory_bytes,
        }
        self._cpu_s = cpu_s
        self._child: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def decode(self, data: bytes) -> Decoded | Refusal:
        """Return upright 8-bit sRGB pixels, or why there are none; never raises for what `data` holds.

        Raises:
            WorkerStartError: the child cannot be started.
        """
        with self._turn:
            try:
                return self._asked(data)
            except _DiedError:
                # a neighbour's memory or a signal may have ended it: only the second death is the image's own
                self._end()
            try:
                return self._asked(data)
            except _DiedError as died:
                self._end()
                return died.refusal

    def close(self) -> None:
        """End the child."""
        with self._turn:
            self._end()

    def __enter__(self) -> Self:
        """Return itself; leaving closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()

    def _asked(self, data: bytes) -> Decoded | Refusal:
        child = self._child or self._started()
        stdin, stdout = _ends(child)
        until_s = time.monotonic() + self._cpu_s + _HUNG_s
        # the child reads everything before it answers, so writing first cannot block both
        try:
            stdin.write(struct.pack("<Q", len(data)))
            stdin.write(data)
            stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._death() from None
        (size,) = struct.unpack("<I", self._read(stdout, 4, until_s))
        answer = json.loads(self._read(stdout, size, until_s))
        if "reason" in answer:
            return Refusal(Reason(answer["reason"]), answer["found"], answer["value"], answer["threshold"])
        shape = tuple(answer["shape"])
        pixels = np.frombuffer(self._read(stdout, int(np.prod(shape)), until_s), np.uint8).reshape(shape)
        notes, marks = tuple(answer["notes"]), tuple(answer["marks"])
        return Decoded(pixels, answer["kind"], answer["orientation"], notes, marks)

    def _read(self, stdout: IO[bytes], size: int, until_s: float) -> bytes:
        parts, got = [], 0
        while got < size:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
                limit_s = self._cpu_s + _HUNG_s
                raise _DiedError(Reason.DECODER_TOO_SLOW, f"no answer in {limit_s:.0f} s", limit_s, limit_s)
            part = os.read(stdout.fileno(), min(size - got, 1 << 20))
            if not part:
                raise self._death()
            parts.append(part)
            got += len(part)
        return b"".join(parts)

    def _death(self) -> _DiedError:
        child = self._child
        code = child.wait() if child else 0
        if code == -signal.SIGXCPU:
            return _DiedError(
                Reason.DECODER_TOO_SLOW, f"more than {self._cpu_s} s of processor time", self._cpu_s, self._cpu_s
            )
        what = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return _DiedError(Reason.DECODER_CRASHED, f"the decoder ended with {what}")

    def _started(self) -> subprocess.Popen[bytes]:
        # -P: the working directory of whoever runs a curation must not lend its modules to the child
        command = [sys.executable, "-P", "-m", "pipeline.adapters.decoding.child", json.dumps(self._told)]
        child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
        )
        self._child = child
        _, stdout = _ends(child)
        try:
            if self._read(stdout, len(READY), time.monotonic() + 120) == READY:
                return child
        except _DiedError as died:
            self._end()
            raise WorkerStartError(f"the decoder's process does not start: {died.refusal.found}") from None
        self._end()
        raise WorkerStartError("the decoder's process does not start: it says something else than it should")

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for end in (child.stdin, child.stdout):
                if end is not None:
                    try:
                        end.close()
                    except BrokenPipeError:
                        continue


def _ends(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if child.stdin is None or child.stdout is None:
        raise WorkerStartError("the decoder's process has no pipes")
    return child.stdin, child.stdout


def _environment() -> dict[str, str]:
    """Return an environment in which the child finds this package wherever it was imported from."""
    import pipeline

    root = str(Path(str(pipeline.__file__)).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, known] if known else [root])}
