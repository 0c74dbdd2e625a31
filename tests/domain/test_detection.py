"""Which face is meant, which boxes are one face, and how five points are laid onto a template."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.detection import Detections, chosen_face, non_maximum, similarity
from pipeline.domain.landmarks import alignment

TEMPLATE = alignment("arcface-112")
POINTS = np.array(TEMPLATE.points)


def found(*boxes: tuple[float, float, float, float], scores: tuple[float, ...] | None = None) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.array(scores or [0.9] * count, np.float32),
        np.zeros((count, 5, 2), np.float32),
    )


@given(
    angle=st.floats(-3.1, 3.1), scale=st.floats(0.05, 40), x=st.floats(-2000, 2000), y=st.floats(-2000, 2000),
    side=st.sampled_from([112, 224, 64]),
)  # fmt: skip
def test_points_that_were_turned_scaled_and_moved_come_back(
    angle: float, scale: float, x: float, y: float, side: int
) -> None:
    """Any similarity of the template's points is undone to within what float32 positions tell in the crop."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = POINTS @ turn.T + [x, y]
    matrix = similarity(moved, TEMPLATE, side)
    assert matrix is not None
    told = np.finfo(np.float32).eps * (abs(x) + abs(y) + 100 * scale) / scale * side / 112
    np.testing.assert_allclose(moved @ matrix[:, :2].T + matrix[:, 2], POINTS * (side / 112), atol=1e-3 + 8 * told)


def test_a_fit_is_the_best_and_never_mirrors() -> None:
    """No small change of the matrix fits noisy points better; mirrored points are turned and not mirrored."""
    rng = np.random.default_rng(3)
    noisy = POINTS * 2.3 + rng.normal(0, 4, (5, 2))
    matrix = similarity(noisy, TEMPLATE, 112)
    assert matrix is not None

    def miss(a: float, b: float, tx: float, ty: float) -> float:
        turn = np.array([[a, -b], [b, a]])
        return float(((noisy @ turn.T + [tx, ty] - POINTS) ** 2).sum())

    best = (matrix[0, 0], matrix[1, 0], matrix[0, 2], matrix[1, 2])
    for n in range(4):
        for step in (-1e-3, 1e-3):
            moved = [*best]
            moved[n] += step
            assert miss(*moved) > miss(*best)
    mirrored = similarity(POINTS * [-1, 1], TEMPLATE, 112)
    assert mirrored is not None
    assert np.linalg.det(mirrored[:, :2]) > 0


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), np.full((5, 2), np.nan), np.full((5, 2), np.inf)])
def test_points_that_say_nothing_have_no_matrix(points: np.ndarray) -> None:
    """Points in one place, or that are no numbers, align nothing."""
    assert similarity(points, TEMPLATE, 112) is None


def test_points_of_another_shape_are_refused() -> None:
    """Only five points are aligned."""
    with pytest.raises(ValueError, match=r"five \(x, y\) points"):
        similarity(np.zeros((4, 2)), TEMPLATE, 112)


def naive(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    left = sorted(range(len(scores)), key=lambda n: (-scores[n], n))
    kept = []
    while left:
        first = left.pop(0)
        kept.append(first)
        rest = []
        for n in left:
            low, high = np.maximum(boxes[n][:2], boxes[first][:2]), np.minimum(boxes[n][2:], boxes[first][2:])
            inner = max(high[0] - low[0] + 1, 0) * max(high[1] - low[1] + 1, 0)
            areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (boxes[n], boxes[first])]
            if inner / (sum(areas) - inner) <= overlap:
                rest.append(n)
        left = rest
    return kept


@given(
    raw=st.lists(st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 30)] * 2, st.integers(0, 5)), max_size=12),
    overlap=st.sampled_from([0.1, 0.4, 0.7]),
)
def test_suppression_equals_the_naive_one(raw: list[tuple[int, ...]], overlap: float) -> None:
    """For any boxes and scores, ties included, the same rows stay in the same order."""
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in raw], np.float32).reshape(-1, 4)
    scores = np.array([s / 5 for *_, s in raw], np.float32)
    assert non_maximum(boxes, scores, overlap).tolist() == naive(boxes.astype(float), scores, overlap)


def test_the_face_that_is_meant() -> None:
    """The largest, the most central, or the only one; of equals the surer, then the earlier."""
    two = found((0, 0, 60, 60), (80, 80, 120, 120))
    assert chosen_face(two, 200, 200, "largest") == 0
    assert chosen_face(two, 200, 200, "central") == 1
    assert chosen_face(two, 200, 200, "only") is None
    assert chosen_face(found((0, 0, 9, 9)), 200, 200, "only") == 0
    assert chosen_face(found(), 200, 200, "largest") is None
    equal = found((0, 0, 50, 50), (100, 0, 150, 50), (0, 100, 50, 150), scores=(0.7, 0.8, 0.8))
    assert chosen_face(equal, 150, 150, "largest") == 1
    assert found((9, 9, 3, 3)).areas_px2.tolist() == [0.0]
