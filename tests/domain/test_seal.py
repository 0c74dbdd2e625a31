"""Seals: whatever byte of a record changes, it shows; what was never sealed is left in peace."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.manifest import Counts, FileEntry, Receipt, canonical_json, sha256_hex
from pipeline.domain.seal import BrokenSealError, sealed, sealed_text, unbroken

RECEIPT = Receipt(
    {"stage": "make", "generation": 0, "index": 1},
    "make-g0-000001",
    "a" * 64,
    "b" * 64,
    Counts(3, 2, 1, {"blurred": 1}),
    (FileEntry("segments/make-g0-000001.tar", "c" * 64, 10),),
    {"host": "a machine", "start_s": 1.5},
)
RECORDS = {
    "receipt": RECEIPT.to_json(),
    "export": canonical_json(sealed({"kind": "webdataset", "digest": "d" * 64, "source": {"version": "v000001"}})),
    "recipe": sealed_text(b"recipe:\n  name: x\nfingerprint: " + b"e" * 64 + b"\n"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_every_altered_byte_of_a_record_is_seen(kind: str) -> None:
    """At every single place, each flip of one bit and some of more: the seal breaks, or the record is no JSON."""
    data = RECORDS[kind]
    assert unbroken(data) == data
    for place in range(len(data)):
        for flips in (*(1 << bit for bit in range(8)), 0xFF, 0x11, 0x42):
            altered = data[:place] + bytes([data[place] ^ flips]) + data[place + 1 :]
            try:
                if unbroken(altered) and kind != "recipe":
                    json.loads(altered)
            except (BrokenSealError, UnicodeDecodeError, json.JSONDecodeError):
                continue
            raise AssertionError(f"byte {place} altered by {flips:#x} is not seen: {altered!r}")


@given(st.binary(max_size=200))
def test_what_has_no_seal_is_left_in_peace(data: bytes) -> None:
    """Records from before there were seals, and anything else."""
    assert unbroken(data) == data


@given(st.dictionaries(st.sampled_from("abcdefgz"), st.text(max_size=20), max_size=5))
def test_the_seal_is_the_digest_of_the_rest(facts: dict[str, str]) -> None:
    """Sealing twice is sealing once; without the seal the record is what it was."""
    body = {"content": 1, **facts}
    once = sealed(body)
    assert once["seal"] == sha256_hex(canonical_json(body))
    assert sealed(once) == once
    assert unbroken(canonical_json(once)) == canonical_json(once)


def test_records_from_before_seals_are_read() -> None:
    """A receipt without a seal says the same."""
    old = canonical_json({k: v for k, v in json.loads(RECORDS["receipt"]).items() if k != "seal"})
    assert unbroken(old) == old
    assert Receipt.from_json(old) == Receipt.from_json(RECORDS["receipt"]) == RECEIPT
