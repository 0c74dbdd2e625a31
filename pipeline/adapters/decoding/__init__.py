"""Bytes from anywhere to upright 8-bit sRGB pixels, or a reason: nothing that a crawl brings may stop a run.

Content is sniffed, never the name; the header is held against limits before a pixel is decoded; JPEG is decoded
strictly, so that corruption in mid-stream, which most decoders paint over, is refused; and all of it happens in a
process of its own, where a native crash or a runaway decode costs one image.
"""

from pipeline.adapters.decoding.guarded import GuardedDecoder
from pipeline.adapters.decoding.pixels import decode
from pipeline.adapters.decoding.sniffing import ALLOWED, sniff

__all__ = ["ALLOWED", "GuardedDecoder", "decode", "sniff"]
