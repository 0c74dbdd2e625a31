"""Evaluation in ports: who is trained on, what is compared, cells, and the record of several seeds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.sketch import SketchMeasures
from pipeline.domain.errors import UserError
from pipeline.domain.face_tables import FaceTable
from pipeline.domain.records import UInt8
from pipeline.domain.verification_pairs import PairList, adjacent_pairs, draw_pairs
from pipeline.flow.evaluating import evaluate
from pipeline.flow.evaluating.evaluate import read_cells, train_and_test, verify
from pipeline.flow.evaluating.figures import compared, facts_of

SOURCE = "sketch://faces?identities=40&images=4&seed=3"


def table_of(reference: str = SOURCE) -> FaceTable:
    """Return sketches as a table, in memory."""
    faces = list(wiring.open_labelled(reference, alignment="sketch-32"))
    names = tuple(dict.fromkeys(f.label for f in faces))
    pixels = np.stack([f.face_HWC for f in faces if f.face_HWC is not None])
    return FaceTable(reference, "d" * 64, pixels, np.array([names.index(f.label) for f in faces]), names)


class Patches:
    """A network that needs no training: the mean grey of sixteen patches, some of them left out."""

    def __init__(self, used: int = 16) -> None:
        """Take how many patches it looks at."""
        self._used = used

    def embed(self, faces_NHWC: UInt8) -> np.ndarray:
        """Return float32 (N, used)."""
        grey = faces_NHWC.astype(np.float64).mean(axis=3).reshape(-1, 4, 8, 4, 8).mean(axis=(2, 4))
        return (grey.reshape(-1, 16)[:, : self._used] - 128).astype(np.float32)


class Learner:
    """Implements `flow.evaluate.Trainer` without learning: it keeps what it was given, and sees better by seed."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.seen: list[dict[str, Any]] = []

    def train(self, faces_NHWC: UInt8, labels_N: np.ndarray, seed: int, *, what: str, tell: Any) -> Patches:
        """Note the arguments; a higher seed looks at more patches."""
        self.seen.append({"labels": labels_N.tolist(), "seed": seed, "what": what})
        tell(1, 1, 0.0)
        return Patches(3 + seed)


def sketches(*, cells: bool = True, labelled: bool = True) -> evaluate.TestSet:
    """Return a test set of sketches."""
    table = table_of("sketch://faces?identities=60&images=4&seed=9")
    cell = read_cells(table, ("shape", "shade"), (SketchMeasures(),), 8, pooled=4) if cells else ()
    of_person = dict(zip(table.labels_N.tolist(), cell, strict=True)) if cell else {}
    return evaluate.TestSet(table, draw_pairs(table.labels_N, of_person, 400, 0, "t"), labelled, cell)


def test_people_who_overlap_are_left_out_of_the_training() -> None:
    """Those removed are labelled -1, the others densely from 0, and the checkpoint's name knows the difference."""
    learner, table = Learner(), table_of()
    train_and_test(table, {0, 39}, [sketches()], learner, 0, lambda *_: None)
    train_and_test(table, set(), [sketches()], learner, 0, lambda *_: None)

    without, whole = learner.seen
    assert set(without["labels"]) == {-1, *range(38)}
    assert [label for label in without["labels"] if label < 0] == [-1] * 8
    assert set(whole["labels"]) == set(range(40))
    assert without["what"] != whole["what"]


@pytest.mark.parametrize("removed", [set(range(39)), set(range(40))])
def test_fewer_than_two_people_are_refused(removed: set[int]) -> None:
    """With one person left, or nobody, there is nothing to tell apart; the line says why and the way out."""
    with pytest.raises(UserError, match="identities to train on after") as caught:
        train_and_test(table_of(), removed, [sketches()], Learner(), 0, lambda *_: None)
    assert "\n" not in str(caught.value)


def test_rates_of_known_people_are_over_every_pair() -> None:
    """Where labels say who is on a picture, TAR and EER count all pairs; of a verification set, its own."""
    labelled = verify(Patches(), sketches())
    table = sketches(cells=False).table
    same = np.arange(120) % 2 == 0
    alone = dataclasses.replace(table, labels_N=np.arange(240), label_names=tuple(map(str, range(240))))
    unlabelled = verify(Patches(), evaluate.TestSet(alone, adjacent_pairs(same), labelled=False))

    assert (labelled.rates.n_genuine, labelled.rates.n_impostor) == (60 * 6, 240 * 239 // 2 - 60 * 6)
    assert (unlabelled.rates.n_genuine, unlabelled.rates.n_impostor) == (60, 60)
    assert unlabelled.cells == {}


def test_a_picture_of_several_pairs_is_read_once() -> None:
    """A verification set's picture that stands in many pairs is embedded once, and counts in each of them."""
    table = table_of()
    read: list[int] = []

    class Counting(Patches):
        def embed(self, faces_NHWC: UInt8) -> np.ndarray:
            read.append(len(faces_NHWC))
            return super().embed(faces_NHWC)

    rows = (5 * np.arange(40) // 2) % 16
    again = dataclasses.replace(
        table, faces_NHWC=table.faces_NHWC[rows], labels_N=rows, label_names=tuple(map(str, range(16)))
    )
    same = table.labels_N[rows[0::2]] == table.labels_N[rows[1::2]]
    found = verify(Counting(), evaluate.TestSet(again, adjacent_pairs(same), labelled=False))

    plain = dataclasses.replace(again, labels_N=np.arange(40), label_names=tuple(map(str, range(40))))
    expected = verify(Patches(), evaluate.TestSet(plain, adjacent_pairs(same), labelled=False))
    assert read == [16, 16]
    assert found.rates == expected.rates
    assert found.folds.fold_accuracy == expected.folds.fold_accuracy


def test_the_number_of_compared_pictures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large set the first people are compared, as many as fit, whole; the ten folds still see everybody."""
    monkeypatch.setattr(evaluate, "MOST_COMPARED", 83)
    found = verify(Patches(), sketches())

    assert found.rates.n_genuine == 20 * 6
    assert len(found.folds.right_P) == 400


def test_figures_agree_with_an_independent_computation() -> None:
    """EER and TAR of the sketches are those of sorting every cosine of summed, scaled embeddings."""
    test = sketches()
    found = verify(Patches(), test)
    faces, labels = test.table.faces_NHWC, test.table.labels_N
    raw = Patches().embed(faces).astype(float) + Patches().embed(faces[:, :, ::-1].copy())
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    genuine, impostor = [], []
    for i in range(len(labels)):
        for j in range(i):
            (genuine if labels[i] == labels[j] else impostor).append(float(unit[i] @ unit[j]))
    allowed = int(0.01 * len(impostor))
    threshold = sorted(impostor, reverse=True)[allowed]

    at = {row.far: row.tar for row in found.rates.at}
    assert at[0.01] == pytest.approx(np.mean(np.array(genuine) > threshold))


def test_cells_are_those_of_the_people() -> None:
    """All pictures of a person share a cell, read from their pooled measures; single pictures are read alone."""
    table = table_of()
    pooled = read_cells(table, ("shape", "shade"), (SketchMeasures(),), 8, pooled=4)
    single = dataclasses.replace(table, labels_N=np.arange(160), label_names=tuple(map(str, range(160))))
    alone = read_cells(single, ("shape", "shade"), (SketchMeasures(),), 8, pooled=1)

    for person in range(40):
        mine = table.labels_N == person
        numbers = SketchMeasures().measure(table.faces_NHWC[mine])
        shape = "square" if numbers["shape=square"].mean() > 0.5 else "round"
        shade = "dark" if numbers["shade=dark"].mean() > 0.5 else "light"
        assert {c for c, m in zip(pooled, mine, strict=True) if m} == {f"{shape}/{shade}"}
    assert set(alone) == {"round/light", "round/dark", "square/light", "square/dark"}
    with pytest.raises(UserError, match="no measure reads it; known: shade, shape"):
        read_cells(table, ("age",), (SketchMeasures(),), 8, pooled=4)


def test_a_cell_counts_the_pairs_within_it() -> None:
    """Accuracy, TAR and FMR of a cell are shares of the pairs of two of its pictures, at one overall threshold."""
    test = sketches()
    found = verify(Patches(5), test)
    cell = np.array(test.cell_N)
    pairs: PairList = test.pairs

    within = (cell[pairs.first_P] == "round/dark") & (cell[pairs.second_P] == "round/dark")
    share = found.cells["accuracy"]["round/dark"]
    assert (share.hits, share.total) == (found.folds.right_P[within].sum(), within.sum())
    assert found.cell_far == 1e-2
    total = sum(s.total for s in found.cells["tar"].values())
    assert total == found.rates.n_genuine
    tar = sum(s.hits for s in found.cells["tar"].values()) / total
    assert tar == pytest.approx(next(r.tar for r in found.rates.at if r.far == 1e-2))


def test_the_record_keeps_seeds_apart_and_gives_mean_and_spread() -> None:
    """Each seed's figure is kept; the mean is theirs, the spread their standard deviation; one seed has none."""
    test = sketches()
    results = [verify(Patches(n), test) for n in (3, 5, 8)]
    facts = facts_of(test, results)
    accuracies = [r.folds.accuracy for r in results]

    assert facts["accuracy"]["seeds"] == accuracies
    assert facts["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert facts["accuracy"]["spread"] == pytest.approx(np.std(accuracies, ddof=1))
    assert facts_of(test, results[:1])["accuracy"]["spread"] is None
    assert [row["far"] for row in facts["tar"]] == [1e-1, 1e-2]
    assert facts["insufficient"][0] == {"far": 1e-3, "impostor_pairs_needed": 30_000}
    cells = facts["cells"]["accuracy"]["cells"]
    wanted = np.mean([r.cells["accuracy"]["round/dark"].value for r in results])
    assert cells["round/dark"]["share"] == pytest.approx(wanted)
    shares = {c: v["share"] for c, v in cells.items() if v["pairs"] >= 30}
    assert facts["cells"]["accuracy"]["gap"]["value"] == pytest.approx(max(shares.values()) - min(shares.values()))


def test_a_baseline_is_compared_by_a_named_denominator() -> None:
    """The gap is baseline less this, in points and as a share of this dataset's accuracy, and says so."""
    test = sketches()
    mine = facts_of(test, [verify(Patches(n), test) for n in (3, 4)])
    other = facts_of(test, [verify(Patches(n), test) for n in (15, 16)])
    (gap,) = compared([mine], [other])

    difference = other["accuracy"]["mean"] - mine["accuracy"]["mean"]
    assert gap["difference"] == pytest.approx(difference)
    assert difference > 0
    assert gap["relative"] == pytest.approx(difference / mine["accuracy"]["mean"])
    assert gap["denominator"] == "this dataset's accuracy"
    assert gap["spread"] == pytest.approx(np.hypot(mine["accuracy"]["spread"], other["accuracy"]["spread"]))
