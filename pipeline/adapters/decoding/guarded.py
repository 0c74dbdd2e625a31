"""Decoding in a process of its own: a native crash, a runaway decode or a bomb costs one image, never the run.

The child (`pipeline.adapters.decoding.child`) lives as long as it decodes well, so a start is paid once. It may use so
much memory and, per image, so much processor time: processor time and not the clock, because whether an image is
refused must not depend on how busy the machine is. An image whose child dies is tried once more in a fresh one before
it is blamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from pipeline.adapters import confining
from pipeline.adapters.decoding.pixels import too_large
from pipeline.domain.errors import WorkerStartError
from pipeline.domain.intake import Decoded, DecodeLimits, Reason, Refusal

READY = b"ready"
_STILL_s = 60.0
"""So long a child may use no processor time and say nothing (it was stopped, its disk stalls) before it is killed."""


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
        memory_bytes: address space that an image may take, beyond what the child has when it has none in hand: that
            much grows with the machine's cores.
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
        self._limits = limits or DecodeLimits()
        self._cpu_s = cpu_s
        self._child: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def decode(self, data: bytes) -> Decoded | Refusal:
        """Return upright 8-bit sRGB pixels, or why there are none; never raises for what `data` holds.

        Raises:
            WorkerStartError: the child cannot be started.
        """
        if refused := too_large(data, self._limits):
            return refused
        with self._turn:
            try:
                return self._asked(data)
            except _DiedError:
                # what neighbours left in its memory, or a signal, may have ended it: only a second death, in a fresh
                # child, is the image's own
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

    def __del__(self) -> None:
        """End the child of a decoder that nobody closed."""
        with contextlib.suppress(Exception):
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
        # the child reads everything before it answers, so writing first cannot block both
        try:
            self._write(stdin, struct.pack("<Q", len(data)))
            self._write(stdin, data)
        except BrokenPipeError:
            raise self._death() from None
        (size,) = struct.unpack("<I", self._read(stdout, 4))
        answer = json.loads(self._read(stdout, size))
        if "reason" in answer:
            reason, found, value, limit = (answer[k] for k in ("reason", "found", "value", "threshold"))
            if reason == Reason.DECODER_OUT_OF_MEMORY:
                raise _DiedError(Reason(reason), found, value, limit)
            return Refusal(Reason(reason), found, value, limit)
        shape = tuple(answer["shape"])
        pixels = np.empty(shape, np.uint8)
        self._fill(stdout, pixels.data.cast("B"))
        notes, marks = tuple(answer["notes"]), tuple(answer["marks"])
        return Decoded(pixels, answer["kind"], answer["orientation"], notes, marks)

    def _write(self, stdin: IO[bytes], data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._wait(stdin, select.POLLOUT)
            try:
                left = left[os.write(stdin.fileno(), left[: 1 << 20]) :]
            except BlockingIOError:
                continue

    def _read(self, stdout: IO[bytes], size: int) -> bytes:
        found = bytearray(size)
        self._fill(stdout, memoryview(found))
        return bytes(found)

    def _fill(self, stdout: IO[bytes], left: memoryview) -> None:
        while left:
            self._wait(stdout, select.POLLIN)
            got = os.readv(stdout.fileno(), [left[: 1 << 20]])
            if not got:
                raise self._death()
            left = left[got:]

    def _wait(self, end: IO[bytes], event: int) -> None:
        """Wait for a pipe as long as the child works: how busy the machine is must not decide about an image."""
        # poll and not select, which fails where a process has a thousand files open
        poll, used = select.poll(), -1.0
        poll.register(end, event)
        while not poll.poll(_STILL_s * 1000):
            now = _processor_s(self._child.pid) if self._child else -1.0
            if now <= used:
                raise _DiedError(Reason.DECODER_TOO_SLOW, f"nothing done in {_STILL_s:g} s", _STILL_s, _STILL_s)
            used = now

    def _death(self) -> _DiedError:
        child = self._child
        try:
            code = child.wait(10) if child else 0
        except subprocess.TimeoutExpired:
            code = 0
        if code == -signal.SIGXCPU:
            return _DiedError(
                Reason.DECODER_TOO_SLOW, f"more than {self._cpu_s} s of processor time", self._cpu_s, self._cpu_s
            )
        return _DiedError(Reason.DECODER_CRASHED, f"the decoder ended with {confining.ending(code)}")

    def _started(self) -> subprocess.Popen[bytes]:
        command = confining.command("pipeline.adapters.decoding.child", self._told)
        child = subprocess.Popen(  # noqa: S603
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=confining.environment(),
        )  # fmt: skip
        self._child = child
        stdin, stdout = _ends(child)
        os.set_blocking(stdin.fileno(), False)
        for end in (stdin, stdout):
            _widen(end)
        try:
            if self._read(stdout, len(READY)) == READY:
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
                    end.close()


def _ends(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if child.stdin is None or child.stdout is None:
        raise WorkerStartError("the decoder's process has no pipes")
    return child.stdin, child.stdout


def _widen(end: IO[bytes]) -> None:
    """Let a pipe hold a megabyte where the system allows it: pixels then pass in a few turns, not in hundreds."""
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(end.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)


def _processor_s(pid: int) -> float:
    """Return the processor time that a process has used; nothing new where the system does not tell."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return -1.0
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
