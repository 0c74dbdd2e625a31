"""Seals: a record that names no file is told to be whole by a digest of itself.

Receipts and manifests hold the digests of everything else; nothing holds theirs, and the half of a receipt that says
where and when it was made may differ from one try to the next. So a record carries the SHA-256 of its own other bytes:
JSON as the member `seal`, text as its last line. One altered byte anywhere, in the seal too, is seen; a record that
never had a seal is no error. A seal is no signature: who changes a record on purpose can seal it anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

SEAL = "seal"
_MEMBER, _LINE = b',"seal":"', b"# seal: "
_WHOLE = (re.compile(rb',"seal":"([0-9a-f]{64})"'), re.compile(rb"# seal: ([0-9a-f]{64})\n\Z"))
_DIGEST = re.compile(rb"(?=[0-9a-f]{64})")


class BrokenSealError(ValueError):
    """A record is not as it was written."""


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `canonical_json` is to be made of: the record and its seal.

    Some key of the record sorts before `seal`; a seal that it has already is replaced.
    """
    plain = {key: value for key, value in body.items() if key != SEAL}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return {**plain, SEAL: hashlib.sha256(text.encode() + b"\n").hexdigest()}


def sealed_text(text: bytes) -> bytes:
    """Return text, whose last line ends, with its seal as a line of comment behind it."""
    return text + _LINE + hashlib.sha256(text).hexdigest().encode() + b"\n"


def unbroken(data: bytes) -> bytes:
    """Return a record's bytes as they are; raises BrokenSealError where it has a seal that does not fit them."""
    marked = False
    for pattern in _WHOLE:
        for found in pattern.finditer(data):
            marked = True
            rest = data[: found.start()] + data[found.end() :]
            if hashlib.sha256(rest).hexdigest().encode() == found[1]:
                return data
    if marked or _MEMBER in data or _LINE in data or any(_is_almost_a_seal(data, m.start()) for m in _digests(data)):
        raise BrokenSealError("its seal does not fit its bytes; restore it from a copy")
    return data


def _digests(data: bytes) -> list[re.Match[bytes]]:
    return list(_DIGEST.finditer(data))


def _is_almost_a_seal(data: bytes, start: int) -> bool:
    """Return whether a digest's name is that of a seal but for one byte: then it is the name that was altered."""
    before = data[max(0, start - len(_MEMBER)) : start]
    return any(
        len(before) >= len(name) and sum(a != b for a, b in zip(before[-len(name) :], name, strict=True)) == 1
        for name in (_MEMBER, _LINE)
    )
