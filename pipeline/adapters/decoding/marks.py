"""What a file says of its own making: IPTC digital source type in its XMP, C2PA content credentials.

Only whether a statement is there is read, never whether it is true: a crawl's AI-made faces are marked, not judged.
Sources: IPTC Photo Metadata 2023.1 (Iptc4xmpExt:DigitalSourceType), C2PA 2.2 (JUMBF in JPEG APP11, PNG `caBX`,
a RIFF `C2PA` chunk in WebP).
"""

from __future__ import annotations

import re

from pipeline.adapters.decoding.containers import chunk_names

_SOURCE_TYPE = re.compile(rb"digitalsourcetype/([A-Za-z]{3,60})")
_CHUNK = {"png": b"caBX", "webp": b"C2PA"}
_SEARCHED_bytes = 1_000_000
"""Metadata stand at either end of a file; a megabyte of each is looked through."""


def marks_of(data: bytes, kind: str) -> tuple[str, ...]:
    """Return `iptc:<term>` for every digital source type named, and `c2pa` where a credential is embedded."""
    ends = (data,) if len(data) <= 2 * _SEARCHED_bytes else (data[:_SEARCHED_bytes], data[-_SEARCHED_bytes:])
    terms = {term for end in ends for term in _SOURCE_TYPE.findall(end)}
    found = [f"iptc:{term.decode('ascii')}" for term in sorted(terms)]
    if any(_has_credential(part, kind) for part in ((data,) if kind in _CHUNK else ends)):
        found.append("c2pa")
    return tuple(found)


def _has_credential(data: bytes, kind: str) -> bool:
    if kind == "jpeg":
        at = data.find(b"\xff\xeb")
        while at >= 0:
            # APP11: length, `JP`, box instance and packet number, then a JUMBF superbox labelled `c2pa`
            if data[at + 4 : at + 6] == b"JP" and b"c2pa" in data[at + 12 : at + 120]:
                return True
            at = data.find(b"\xff\xeb", at + 2)
        return False
    if kind in _CHUNK:
        # the name alone stands in compressed pixels too, by chance: once in some thousand megabytes
        return _CHUNK[kind] in chunk_names(data, kind)
    return b"c2pa\0jumb" in data
