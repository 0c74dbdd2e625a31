"""Embedding labelled faces and pairs: rows, labels, digests, and faces that cannot be embedded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from jobs import wiring
from pipeline.domain.calibration import Calibration, PairCalibration
from pipeline.domain.errors import UserError
from pipeline.domain.ports import LabelledFace, Recogniser
from pipeline.domain.records import Float32, UInt8
from pipeline.domain.space import Space
from pipeline.flow.labelled import embed_labelled, embed_pairs, measure_labelled
from pipeline.flow.thresholds import fmr_words
from tests.worlds import sketches


class Given:
    """A source, or pairs, that yields what it was given."""

    name = "given"
    space: Space | None = None

    def __init__(self, *items: object) -> None:
        """Keep what is yielded."""
        self.items = items

    def __iter__(self) -> Iterator[object]:
        """Yield it."""
        return iter(self.items)


class HalfBlind:
    """The sketch judge, but black faces have no embedding."""

    def __init__(self, judge: Recogniser) -> None:
        """Wrap the judge."""
        self.judge, self.space, self.card, self.calibration = judge, judge.space, judge.card, judge.calibration

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Return the judge's rows, NaN where a face is black."""
        emb = self.judge.embed(faces_NHWC)
        emb[(faces_NHWC == 0).all(axis=(1, 2, 3))] = np.nan
        return emb


@pytest.fixture(scope="module")
def judge() -> Recogniser:
    """Return the half-blind judge."""
    return HalfBlind(wiring.build("judge", sketches().judge))


def face(value: int) -> UInt8:
    """Return a crop whose upper half has a value."""
    out = np.full((32, 32, 3), 40, np.uint8)
    out[:16] = value
    return out


BLACK = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_faces_without_an_embedding_have_no_row_and_are_named(judge: Recogniser, batch: int) -> None:
    """The others keep their rows and labels; a person of whom nothing is left has no label."""
    source = Given(
        LabelledFace("b", "b/1", face(200)), LabelledFace("gone", "gone/1", BLACK),
        LabelledFace("a", "a/1", face(90)), LabelledFace("b", "b/2", face(180)),
    )  # fmt: skip

    found = embed_labelled(source, judge, batch)  # type: ignore[arg-type]

    assert found.label_names == ("b", "a")
    assert found.labels_N.tolist() == [0, 1, 0]
    assert found.names == ("b/1", "a/1", "b/2")
    assert found.unreadable == ("gone/1",)
    np.testing.assert_array_equal(found.emb_NE[1], judge.embed(face(90)[None])[0])


def test_digests_do_not_run_parts_together(judge: Recogniser) -> None:
    """Label `ab` with name `c` is not label `a` with name `bc`."""
    one, other = (
        embed_labelled(Given(LabelledFace(label, name, face(100))), judge, 1).digest  # type: ignore[arg-type]
        for label, name in (("ab", "c"), ("a", "bc"))
    )
    assert one != other


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_pairs_are_compared_and_the_unreadable_counted(judge: Recogniser, batch: int) -> None:
    """Genuine and impostor cosines come apart, in order, in float64; a pair with a blind face counts as left out."""
    pairs = Given((face(200), face(180), True), (face(200), face(10), False), (BLACK, face(9), True),
                  (face(7), face(250), False))  # fmt: skip

    found = embed_pairs(pairs, judge, batch)  # type: ignore[arg-type]

    emb = judge.embed(np.stack([face(v) for v in (200, 180, 10, 7, 250)])).astype(np.float64)
    np.testing.assert_allclose(found.genuine_cos_N, [emb[0] @ emb[1]], atol=1e-12)
    np.testing.assert_allclose(found.impostor_cos_N, [emb[0] @ emb[2], emb[3] @ emb[4]], atol=1e-12)
    assert found.unreadable == 1
    assert found.digest == embed_pairs(pairs, judge, 2).digest  # type: ignore[arg-type]


def test_nothing_to_embed_is_an_error(judge: Recogniser) -> None:
    """An empty source, and pairs that are all unreadable, say so."""
    with pytest.raises(UserError, match="no face here"):
        embed_labelled(Given(), judge, 4)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no pair here"):
        embed_pairs(Given((BLACK, BLACK, True)), judge, 4)  # type: ignore[arg-type]


class HalfSharp:
    """A measure that gives the mean value of a face, and nothing of a black one."""

    names = ("value", "one")

    def __init__(self, judge: Recogniser) -> None:
        """Take a card."""
        self.card, self.attributes, self.confusion = judge.card, {}, {}

    def measure(self, faces_NHWC: UInt8) -> dict[str, npt.NDArray[np.float64]]:
        """Return one float64 per face and name."""
        value = faces_NHWC.astype(np.float64).mean(axis=(1, 2, 3))
        return {"value": np.where(value > 0, value, np.nan), "one": np.ones(len(value))}


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_scores_of_labelled_faces_leave_out_what_is_no_number(judge: Recogniser, batch: int) -> None:
    """In the order of the source; the digest is over every face, and the batch is no part of anything."""
    faces = [LabelledFace("a", str(n), f) for n, f in enumerate((face(200), BLACK, face(80)))]
    measurer = HalfSharp(judge)
    found = measure_labelled(Given(*faces), measurer, batch, ["value"])  # type: ignore[arg-type]
    assert {k: v.tolist() for k, v in found.scores.items()} == {"value": [120.0, 60.0]}
    assert (found.count, found.left_out) == (2, 1)
    assert found.digest == embed_labelled(Given(*faces), judge, 2).digest  # type: ignore[arg-type]
    both = measure_labelled(Given(*faces), measurer, batch, ["one", "value"])  # type: ignore[arg-type]
    assert both.scores["one"].tolist() == [1.0, 1.0]
    assert measure_labelled(Given(), measurer, batch, ["one"]).count == 0  # type: ignore[arg-type]


PAIR = PairCalibration(10, 10_000, 0.8, 0.0, 0.01, (1e-1, 1e-2, 1e-3), (0.2, 0.4, 0.6), (0.0, 0.01, 0.1))
CALIBRATION = Calibration(Space("s", "a" * 64, "x-32", "unit", 4), "x", {"sample/template4": PAIR}, {})


@pytest.mark.parametrize(
    ("cos", "probes", "references", "words"),
    [
        (0.4, 1, 4, "1.0e-02 (sample/template4)"),
        (0.5, 1, 9, "3.2e-03 (sample/template4)"),
        (0.6, 1, 4, "1.0e-03 (sample/template4)"),
        (0.61, 1, 4, "below 1e-03 (sample/template4)"),
        (0.19, 3, 4, "above 1e-01 (sample/template4)"),
        (0.5, 1, 1, "unknown: no such comparison is calibrated"),
    ],
)
def test_a_cosine_is_shown_with_its_rate(cos: float, probes: int, references: int, words: str) -> None:
    """Between levels log-linear, beyond them the side alone, and unknown where nothing fitting is calibrated."""
    assert fmr_words(CALIBRATION, cos, probe_images=probes, reference_images=references) == words
