"""Receipts and manifests: canonical bytes, digests that see every change and no reordering, counts that add up."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.manifest import Counts, FileEntry, Manifest, Receipt, canonical_json

ENTRY = st.builds(
    FileEntry,
    st.integers(0, 999).map("segments/make-g0-{:06d}.tar".format),
    st.sampled_from(["ab" * 32, "cd" * 32]),
    st.integers(0, 10**9),
)
FILES = st.lists(ENTRY, unique_by=lambda f: f.path, min_size=1, max_size=6)
REASONS = ("off_target_yaw_deg", "own_template_too_far", "too_blurred")
OUTCOME = st.one_of(
    st.booleans().map(lambda missed: (True, missed, ())),
    st.sets(st.sampled_from(REASONS), min_size=1).map(lambda reasons: (False, False, tuple(sorted(reasons)))),
)
COUNTS = st.lists(OUTCOME, max_size=20).map(Counts.of)


def manifest(files: tuple[FileEntry, ...]) -> Manifest:
    """Return a manifest of these files."""
    return Manifest(
        version="v000001",
        parent=None,
        parent_digest=None,
        generation=0,
        name="demo",
        fingerprint="f" * 64,
        plan_digest="p" * 64,
        files=files,
        documents=(FileEntry("versions/v000001/README.md", "ef" * 32, 9),),
        counts={"images": 3},
        figures={"eer": 0.25},
        models={"judge": {"name": "phantom-judge"}},
        use={"commercial": False},
    )


def receipt(counts: Counts, files: tuple[FileEntry, ...]) -> Receipt:
    """Return a receipt of a make unit."""
    return Receipt(
        unit={"stage": "make", "index": 3},
        name="make-g0-000003",
        fingerprint="f" * 64,
        plan_digest="p" * 64,
        counts=counts,
        files=files,
        run={"host": "a", "end_s": 12.5},
    )


@given(FILES, st.data())
def test_digest_and_bytes_do_not_depend_on_the_order_of_files(files: list[FileEntry], data: st.DataObject) -> None:
    """Files listed in another order give the same digest and the same manifest bytes."""
    one, other = manifest(tuple(files)), manifest(tuple(data.draw(st.permutations(files))))

    assert one.digest == other.digest
    assert one.to_json() == other.to_json()


def test_digest_is_that_of_the_documented_lines() -> None:
    """The dataset digest can be computed with sort and sha256sum."""
    files = (FileEntry("segments/b.tar", "22" * 32, 5), FileEntry("segments/a.tar", "11" * 32, 7))
    lines = f"segments/a.tar {'11' * 32}\nsegments/b.tar {'22' * 32}\n"

    assert manifest(files).digest == hashlib.sha256(lines.encode()).hexdigest()


@given(FILES, st.data())
def test_digest_sees_every_change(files: list[FileEntry], data: st.DataObject) -> None:
    """Another hash, another path or a missing file gives another digest; documents do not count."""
    n = data.draw(st.integers(0, len(files) - 1))
    base = manifest(tuple(files))
    for changed in (
        [*files[:n], dataclasses.replace(files[n], sha256="00" * 32), *files[n + 1 :]],
        [*files[:n], dataclasses.replace(files[n], path="segments/other"), *files[n + 1 :]],
        [*files[:n], *files[n + 1 :]],
    ):
        assert manifest(tuple(changed)).digest != base.digest
    assert dataclasses.replace(base, documents=()).digest == base.digest


@given(FILES)
def test_manifest_round_trip(files: list[FileEntry]) -> None:
    """A manifest written as JSON and read again is equal, and writes the same bytes."""
    one = manifest(tuple(sorted(files)))
    again = Manifest.from_json(one.to_json())

    assert again == one
    assert again.to_json() == one.to_json()


@given(COUNTS, FILES)
def test_receipt_round_trip(counts: Counts, files: list[FileEntry]) -> None:
    """A receipt written as JSON and read again is equal."""
    one = receipt(counts, tuple(files))

    assert Receipt.from_json(one.to_json()) == one


def test_receipts_of_two_runs_have_equal_content() -> None:
    """Host and time lie outside what is compared."""
    one = receipt(Counts.of([(True, False, ()), (False, False, ("too_blurred",))]), ())
    other = dataclasses.replace(one, run={"host": "b", "end_s": 99.0})

    assert one.content() == other.content()
    assert one.to_json() != other.to_json()


@given(st.lists(OUTCOME, max_size=30), st.integers(0, 30))
def test_counts_conserve_candidates(outcomes: list[tuple[bool, bool, tuple[str, ...]]], cut: int) -> None:
    """Every candidate is accepted or refused, every refused one has one first reason, and parts add up to the whole."""
    whole = Counts.of(outcomes)

    assert whole.candidates == whole.accepted + whole.refused == len(outcomes)
    assert sum(whole.reasons.values()) == whole.refused
    assert sum(whole.reasons_any.values()) == sum(len(reasons) for _, _, reasons in outcomes)
    assert whole.off_target == sum(missed for _, missed, _ in outcomes)
    assert Counts.total([Counts.of(outcomes[cut:]), Counts.of(outcomes[:cut])]) == whole


def test_candidate_refused_twice_counts_once_under_its_first_reason() -> None:
    """First reasons sum to the refused; every reason is counted beside them."""
    counts = Counts.of([(True, True, ()), (False, False, ("too_blurred", "own_template_too_far"))])

    assert counts == Counts(2, 1, 1, {"too_blurred": 1}, 1, {"own_template_too_far": 1, "too_blurred": 1})


@pytest.mark.parametrize(
    ("numbers", "reasons", "message"),
    [
        ((10, 6, 3), {"too_blurred": 3}, r"10 candidates != 6 accepted \+ 3 refused"),
        ((10, 6, 4), {"too_blurred": 3}, "4 refused, but the reasons add up to 3"),
    ],
)
def test_counts_that_lose_a_candidate_are_refused(
    numbers: tuple[int, int, int], reasons: dict[str, int], message: str
) -> None:
    """Accepted and refused must add up to the candidates, and first reasons to the refused."""
    with pytest.raises(ValueError, match=message):
        Counts(*numbers, reasons)


def test_canonical_json_is_one_form() -> None:
    """Key order and spacing do not matter, non-ASCII stays readable, and the text ends in a newline."""
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == canonical_json({"a": [1.5, "é"], "b": 1})
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_canonical_json_refuses_numbers_that_json_does_not_have(value: float) -> None:
    """NaN and infinity never reach a receipt or a manifest."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"eer": value})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", json.dumps({"content": {}}).encode()])
def test_other_bytes_are_no_receipt(data: bytes) -> None:
    """Cut or foreign bytes raise one of the three errors that readers turn into a message."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        Receipt.from_json(data)
