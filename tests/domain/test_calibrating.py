"""Measuring a calibration: exact over all pairs, whatever the block size, and monotone."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain import impostors
from pipeline.domain.calibrating import block_maxima, calibrate, calibrate_pairs, measure_pairs
from pipeline.domain.calibration import LEVELS, Calibration, PairCalibration
from pipeline.domain.cosines import NumpyProduct, exact_cosines, rounding_margin
from pipeline.domain.errors import CalibrationError
from pipeline.domain.impostors import Comparison, Tail, equal_error, measure_tails
from pipeline.domain.records import Float32, template_of, unit_rows
from pipeline.domain.space import Space

SPACE = Space("test-judge", "ab" * 32, "phantom-112", "unit", 16)


def people(
    seed: int, count: int, images: int, *, spread: float = 0.5, dims: int = 16, decimals: int = 7
) -> tuple[Float32, np.ndarray]:
    """Return embeddings of made-up people, mixed, and their labels; few decimals give many equal cosines."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(count), images))
    centres = rng.standard_normal((count, dims))
    raw = np.round(centres[labels] + spread * rng.standard_normal((len(labels), dims)), decimals)
    return unit_rows(raw + 1e-3, "people"), labels


def naive(emb: Float32, labels: np.ndarray) -> PairCalibration:
    """Return what sorting the exact cosine of every pair gives."""
    rows, columns = np.triu_indices(len(emb), 1)
    cos = exact_cosines(emb, rows, emb, columns)
    same = labels[rows] == labels[columns]
    return measure_pairs(cos[same], cos[~same])


def plain(pair: PairCalibration) -> dict[str, object]:
    """Return every figure but the mean of the impostors, whose sum is made in another order."""
    return {k: v for k, v in dataclasses.asdict(pair).items() if k != "impostor_mean_cos"}


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(9, 30),
    images=st.integers(3, 6),
    spread=st.sampled_from([0.0, 0.3, 1.0, 6.0]),
    decimals=st.sampled_from([0, 1, 7]),
    dims=st.sampled_from([3, 16, 130]),
    block=st.integers(5, 200),
)
@settings(max_examples=60, deadline=None)
def test_streamed_figures_are_those_of_sorting_every_pair(
    seed: int, count: int, images: int, spread: float, decimals: int, dims: int, block: int
) -> None:
    """Whatever the block size, every figure equals the one from all exact cosines sorted, ties included."""
    emb, labels = people(seed, count, images, spread=spread, dims=dims, decimals=decimals)

    found = calibrate(SPACE, "people", emb, labels, template_sizes=(), block=block).pairs["sample/sample"]
    expected = naive(emb, labels)

    assert plain(found) == plain(expected)
    assert found.impostor_mean_cos == pytest.approx(expected.impostor_mean_cos, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), block=st.integers(10, 100), images=st.integers(4, 7))
@settings(max_examples=10, deadline=None)
def test_block_size_changes_nothing(seed: int, block: int, images: int) -> None:
    """Samples, templates and 1:N figures are the same to the last bit for every block size."""
    emb, labels = people(seed, 40, images, spread=1.0)

    one = calibrate(SPACE, "people", emb, labels, template_sizes=(2, 3), block=block)
    whole = calibrate(SPACE, "people", emb, labels, template_sizes=(2, 3), block=10_000)

    assert one == whole


@given(seed=st.integers(0, 2**32 - 1), dims=st.sampled_from([16, 512]), spread=st.sampled_from([0.0, 1.0]))
@settings(max_examples=10, deadline=None)
def test_a_product_as_inexact_as_its_bound_allows_changes_nothing(seed: int, dims: int, spread: float) -> None:
    """Products decide nothing: errors up to the proven bound, other ones in each pass, leave every figure as it is."""
    emb, labels = people(seed, 60, 6, spread=spread, dims=dims)
    expected = calibrate(SPACE, "people", emb, labels, template_sizes=(3,))
    rng = np.random.default_rng(seed)
    exactly = NumpyProduct.product

    def roughly(self: NumpyProduct, a: Float32, b: Float32) -> Float32:
        product = exactly(self, a, b)
        product += (rounding_margin(dims) * rng.uniform(-0.9, 0.9, product.shape)).astype(np.float32)
        return product

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NumpyProduct, "product", roughly)
        assert calibrate(SPACE, "people", emb, labels, template_sizes=(3,), block=50) == expected


def test_templates_are_compared_as_their_name_says() -> None:
    """Sample/template2 compares the images behind the first two with the templates of the first two."""
    emb, labels = people(3, 30, 5, spread=1.0)
    first = [np.flatnonzero(labels == i) for i in range(30)]
    templates = np.stack([template_of(emb[r[:2]]) for r in first])
    rest = np.concatenate([r[2:] for r in first])
    rows, columns = (i.ravel() for i in np.indices((len(rest), 30)))
    cos = exact_cosines(emb, rest[rows], templates, columns)
    same = labels[rest[rows]] == columns

    found = calibrate(SPACE, "people", emb, labels, template_sizes=(2,))

    assert plain(found.pairs["sample/template2"]) == plain(measure_pairs(cos[same], cos[~same]))
    second = np.stack([template_of(emb[r[2:4]]) for r in first])
    pair = found.pairs["template2/template2"]
    assert pair.n_genuine == 30
    assert pair.genuine_mean_cos == pytest.approx(float(np.einsum("ne,ne->n", templates, second).mean()), abs=1e-6)
    assert pair.n_impostor == 30 * 29 // 2


@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.2, 1.0, 3.0]))
@settings(max_examples=10, deadline=None)
def test_calibration_is_monotone(seed: int, spread: float) -> None:
    """As FMR falls the cosine rises and with it FNMR; bounds hold their rate; larger N, larger 1:N cosines."""
    emb, labels = people(seed, 120, 6, spread=spread)
    found = calibrate(SPACE, "people", emb, labels, template_sizes=(2, 3))

    for pair in found.pairs.values():
        assert list(pair.fmr) == sorted(pair.fmr, reverse=True)
        assert list(pair.cos) == sorted(pair.cos)
        assert list(pair.fnmr) == sorted(pair.fnmr)
        assert (*pair.fmr, *pair.insufficient) == LEVELS
        for row in zip(pair.fnmr_low, pair.fnmr, pair.fnmr_high, strict=True):
            assert row == tuple(sorted(row))
        for low, matches, high in zip(pair.fmr_low, pair.false_matches, pair.fmr_high, strict=True):
            assert low <= matches / pair.n_impostor <= high
    for blocks in found.one_to_many.values():
        for block in blocks:
            assert list(block.cos) == sorted(block.cos)
        medians = [b.cos[0] for b in blocks]
        assert medians == sorted(medians)


@pytest.mark.parametrize(("people_", "images", "sizes"), [(60, 3, (1, 2)), (130, 5, (4,)), (53, 2, (1,))])
def test_one_to_many_is_the_largest_of_each_block_of_others(people_: int, images: int, sizes: tuple[int, ...]) -> None:
    """The maxima are those of a plain loop over each probe's others in blocks of N, its own template never among."""
    emb, labels = people(people_, people_, images)
    emb = emb[np.argsort(labels, kind="stable")]
    owners = np.arange(people_)
    for k in sizes:
        templates = np.stack([template_of(emb[i * images : i * images + k]) for i in owners])
        probes = emb[np.arange(people_) * images + images - 1]
        for block in block_maxima(probes, owners, templates):
            best = []
            for i in owners:
                others = [(i + 1 + j) % people_ for j in range(people_ - 1)]
                exact = exact_cosines(probes, np.full(people_ - 1, i), templates, np.array(others))
                best += [exact[b : b + block.n].max() for b in range(0, people_ - block.n, block.n)]
            assert block.n_probes == len(best)
            assert block.cos == tuple(np.quantile(best, block.quantile))


def test_the_largest_of_templates_that_float32_cannot_tell_apart_is_the_exact_one() -> None:
    """Among templates whose cosines differ by less than a float32 product's error, the exact maximum is found."""
    rng = np.random.default_rng(4)
    dims, count = 128, 120
    crowd = unit_rows(np.ones((count, dims)) + 1e-6 * rng.standard_normal((count, dims)), "crowd")
    probes = unit_rows(rng.standard_normal((count, dims)), "probes")
    owners = np.arange(count)

    (*_, widest) = block_maxima(probes, owners, crowd)

    rows, columns = (i.ravel() for i in np.indices((count, count)))
    exact = exact_cosines(probes, rows, crowd, columns).reshape(count, count)
    exact[owners, owners] = -2
    assert widest.n == count - 1
    assert widest.cos == tuple(np.quantile(exact.max(axis=1), widest.quantile))


@pytest.mark.parametrize(
    ("genuine", "impostor", "expected"),
    [
        ([0.1], [0.5] * 300, 1.0),
        ([0.9] * 10, [0.1] * 300, 0.0),
        ([0.3] * 4, [0.3] * 300, 0.5),
        ([0.1, 0.2, 0.8, 0.9], [0.0] * 225 + [0.5] * 75, 0.25),
    ],
)
def test_eer_of_plain_cases(genuine: list[float], impostor: list[float], expected: float) -> None:
    """The EER is the mean of both rates where they differ least; of two such places the lower counts."""
    tail = Tail.of_all(np.array(impostor))

    assert equal_error(tail, np.array(genuine), len(impostor)) == pytest.approx(expected)


def test_eer_holds_where_nobody_lies_near_the_crossing() -> None:
    """Where genuine and impostor cosines leave a gap, or lie the wrong way round, the ends of the gap count."""
    towards = np.eye(4, dtype=np.float32)
    apart = np.repeat(towards[:2], 20, axis=0)
    # the first of an identity's images are like the other's last: worse than chance
    twisted = np.concatenate([apart[:10], apart[20:30], apart[10:20], apart[30:]])[:40]
    labels = np.repeat([0, 1], 20)

    for emb in (apart, twisted):
        found = calibrate(SPACE, "gap", emb, labels, template_sizes=(), block=7).pairs["sample/sample"]
        assert found.eer == naive(emb, labels).eer


def test_levels_without_thirty_errors_are_stated_as_insufficient() -> None:
    """A level that the impostor pairs cannot support has no cosine and is listed; asking for it is an error."""
    emb, labels = people(5, 30, 3)
    found = calibrate(SPACE, "people", emb, labels, template_sizes=(2,))
    pair = found.pairs["sample/sample"]

    assert pair.n_impostor == 90 * 87 // 2
    assert pair.fmr == (1e-1, 1e-2)
    assert pair.insufficient == (1e-3, 1e-4, 1e-5, 1e-6)
    assert pair.fmr100 == pair.fnmr[1]
    assert pair.fmr1000 is None
    assert found.measured["not_measured"] == {"template2/template2": "no identity has 4 images"}
    with pytest.raises(CalibrationError, match="outside what"):
        found.threshold_cos(1e-4, "sample/sample")


def test_a_comparison_with_too_few_pairs_is_stated_and_the_others_stand() -> None:
    """Where samples have pairs enough and templates have not, the templates are named as not measured, and why."""
    emb, labels = people(6, 12, 4)
    found = calibrate(SPACE, "people", emb, labels, template_sizes=(2,))

    assert list(found.pairs) == ["sample/sample"]
    assert found.one_to_many == {}
    assert found.measured["not_measured"] == {
        "sample/template2": "264 impostor and 24 genuine pairs cannot support any level; "
        "at least 300 impostor pairs are needed",
        "template2/template2": "66 impostor and 12 genuine pairs cannot support any level; "
        "at least 300 impostor pairs are needed",
    }


def test_false_matches_are_those_that_pass() -> None:
    """At each level the stated number of impostor pairs has at least the stated cosine, and the rule holds."""
    emb, labels = people(8, 60, 4)
    rows, columns = np.triu_indices(240, 1)
    other = labels[rows] != labels[columns]
    cos = exact_cosines(emb, rows[other], emb, columns[other])
    pair = calibrate(SPACE, "people", emb, labels, template_sizes=()).pairs["sample/sample"]

    for fmr, threshold, matches in zip(pair.fmr, pair.cos, pair.false_matches, strict=True):
        assert matches == np.count_nonzero(cos >= threshold) <= fmr * cos.size


def test_pairs_alone_give_sample_thresholds_and_say_what_is_missing() -> None:
    """A verification set calibrates sample/sample; templates and 1:N are stated as not measured."""
    rng = np.random.default_rng(2)
    found = calibrate_pairs(SPACE, "set.bin", rng.normal(0.7, 0.1, 300), rng.normal(0, 0.1, 300))

    assert list(found.pairs) == ["sample/sample"]
    assert found.measured == {
        "images": 1200,
        "not_measured": {"templates, 1:N": "the source holds pairs and no identities"},
    }
    assert Calibration.from_dict(found.to_dict()) == found


def test_equal_embeddings_take_no_room() -> None:
    """A recogniser that gives everyone the same embedding is measured, not choked on."""
    emb = np.repeat(np.eye(1, 16, dtype=np.float32), 600, axis=0)
    found = calibrate(SPACE, "one face", emb, np.repeat(np.arange(300), 2), template_sizes=(), block=64)

    assert found.pairs["sample/sample"].eer == 0.5
    assert found.pairs["sample/sample"].fnmr == (1.0,) * 3


def test_memory_does_not_grow_with_the_pairs() -> None:
    """Eighteen million pairs, 144 MB as float64, are measured in less."""
    emb, labels = people(9, 2000, 3, spread=1.0)
    tracemalloc.start()
    calibrate(SPACE, "people", emb, labels, template_sizes=(2,), block=512)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 100e6


@pytest.mark.soak
def test_eight_thousand_people_fit_into_two_gigabytes() -> None:
    """64,000 images, two thousand million pairs, are measured in a process of less than 2 GB."""
    code = (
        "import resource, numpy as np\n"
        "from pipeline.domain.calibrating import calibrate\n"
        "from pipeline.domain.records import unit_rows\n"
        "from pipeline.domain.space import Space\n"
        "rng = np.random.default_rng(1)\n"
        "labels = np.repeat(np.arange(8000), 8)\n"
        "raw = 0.8 * rng.standard_normal((8000, 128), np.float32)[labels]\n"
        "raw += 0.6 * rng.standard_normal((64000, 128), np.float32)\n"
        "space = Space('s', 'ab' * 32, 'x-112', 'unit', 128)\n"
        "found = calibrate(space, 'x', unit_rows(raw, 'x'), labels, template_sizes=(4,))\n"
        "assert found.pairs['sample/sample'].n_impostor == 64000 * 63992 // 2\n"
        "assert len(found.pairs['sample/sample'].fmr) == 6\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(done.stdout) < 2_000_000  # kilobytes


def test_too_many_close_cosines_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more pairs than can be kept have almost one cosine, the error says what to check."""
    monkeypatch.setattr(impostors, "MOST_CONTENDERS", 1000)
    rng = np.random.default_rng(1)
    emb = unit_rows(np.eye(1, 16) + 1e-4 * rng.standard_normal((200, 16)), "close")

    with pytest.raises(CalibrationError, match="almost the same cosine"):
        calibrate(SPACE, "close", emb, np.repeat(np.arange(100), 2), template_sizes=())


def test_ranks_are_exact_at_both_ends() -> None:
    """The largest and the smallest impostor cosine are found by their ranks."""
    emb, labels = people(4, 20, 3)
    order = np.argsort(labels, kind="stable")
    comparison = Comparison(emb[order], labels[order])
    rows, columns = np.triu_indices(60, 1)
    other = labels[order][rows] != labels[order][columns]
    cos = np.sort(exact_cosines(emb[order], rows[other], emb[order], columns[other]))

    tails, _ = measure_tails(comparison, [1, 2, cos.size], comparison.genuine(), block=16)

    assert [t.ranked(r) for t, r in zip(tails, (1, 2, cos.size), strict=True)] == [cos[-1], cos[-2], cos[0]]
