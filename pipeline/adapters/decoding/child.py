"""The process that decodes: reads a length and an image from standard input, answers on standard output, for ever.

Answer: a length, JSON, and where it decoded the pixels, row by row. What native libraries print goes nowhere.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from typing import IO, Any

from pipeline.adapters import confining
from pipeline.adapters.decoding.guarded import READY
from pipeline.adapters.decoding.pixels import decode
from pipeline.domain.intake import Decoded, DecodeLimits, Reason, Refusal


def main(arguments: list[str]) -> int:
    """Serve until standard input ends."""
    told = json.loads(arguments[0])
    limits = DecodeLimits(**told["limits"])
    out = confining.answers()
    confining.limit(resource.RLIMIT_CORE, 0)
    _warm()
    confining.limit(resource.RLIMIT_AS, confining.address_space_bytes() + told["memory_bytes"])
    out.write(READY)
    out.flush()
    while (data := _read(sys.stdin.buffer)) is not None:
        used_s = resource.getrusage(resource.RUSAGE_SELF)
        most_s = int(used_s.ru_utime + used_s.ru_stime) + 1 + told["cpu_s"]
        confining.limit(resource.RLIMIT_CPU, most_s, for_good=False)
        try:
            found = decode(data, limits, first_frame=told["first_frame"])
        except MemoryError:
            limit = told["memory_bytes"]
            found = Refusal(Reason.DECODER_OUT_OF_MEMORY, f"more than {limit:,} bytes of memory", limit, limit)
        del data
        _answer(out, found)
    return 0


def _warm() -> None:
    """Import what decoding needs before memory is limited: a library must not be half loaded when it runs out."""
    import simplejpeg  # noqa: F401
    from PIL import Image, ImageCms  # noqa: F401

    Image.init()


def _read(stream: IO[bytes]) -> bytes | None:
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    data = stream.read(size)
    return data if len(data) == size else None


def _answer(out: IO[bytes], found: Decoded | Refusal) -> None:
    told: dict[str, Any]
    pixels: Any = b""
    if isinstance(found, Refusal):
        told = {"reason": found.reason, "found": found.found, "value": found.value, "threshold": found.threshold}
    else:
        told = {
            "shape": found.image_HWC.shape, "kind": found.kind, "orientation": found.orientation,
            "notes": found.notes, "marks": found.marks,
        }  # fmt: skip
        pixels = found.image_HWC.data
    head = json.dumps(told).encode()
    out.write(struct.pack("<I", len(head)))
    out.write(head)
    out.write(pixels)
    out.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
