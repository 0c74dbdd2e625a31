"""Five landmarks: the templates, and the pose and size that the points alone tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.errors import UserError
from pipeline.domain.landmarks import ALIGNMENTS, MODEL_53, Float64, alignment, landmark_measures, pose_deg

TURN = st.tuples(st.floats(-60, 60), st.floats(-40, 40), st.floats(-90, 90))


def seen(pose: tuple[float, float, float], scale_px: float = 40.0, at_px: tuple[float, float] = (50, 60)) -> Float64:
    """Return the model's points after yaw, pitch and roll, seen from far away; shape (1, 5, 2)."""
    yaw, pitch, roll = np.deg2rad(pose)
    cos, sin = np.cos, np.sin
    turn_y = np.array([[cos(yaw), 0, sin(yaw)], [0, 1, 0], [-sin(yaw), 0, cos(yaw)]])
    turn_x = np.array([[1, 0, 0], [0, cos(pitch), sin(pitch)], [0, -sin(pitch), cos(pitch)]])
    turn_z = np.array([[cos(roll), sin(roll), 0], [-sin(roll), cos(roll), 0], [0, 0, 1]])
    points = MODEL_53 @ (turn_z @ turn_x @ turn_y).T
    return np.asarray(points[None, :, :2] * [scale_px, -scale_px] + at_px, np.float64)


@given(TURN, st.floats(1, 500), st.tuples(st.floats(-100, 900), st.floats(-100, 900)))
def test_the_pose_of_the_model_itself_is_found(
    pose: tuple[float, float, float], scale_px: float, at_px: tuple[float, float]
) -> None:
    """Turned, scaled and moved anywhere, the model's own points give back the angles that turned them."""
    assert pose_deg(seen(pose, scale_px, at_px))[0] == pytest.approx(pose, abs=1e-5)


def test_signs_are_those_of_the_image() -> None:
    """Moving the nose right in the picture raises yaw, moving it up raises pitch, a lower right eye raises roll."""
    level = np.array(MODEL_53[:, :2]) * [40.0, -40.0] + [50.0, 60.0]
    right, up, tilted = level.copy(), level.copy(), level.copy()
    right[2, 0] += 5
    up[2, 1] -= 5
    tilted[[1, 4], 1] += 5
    yaw, pitch, roll = pose_deg([right, up, tilted])
    assert yaw[0] > 5 > abs(yaw[1]) + abs(yaw[2])
    assert pitch[1] > 5 > abs(pitch[0]) + abs(pitch[2])
    assert roll[2] > 3


@pytest.mark.parametrize("name", sorted(ALIGNMENTS))
def test_an_aligned_face_looks_at_us_by_its_own_proportions(name: str) -> None:
    """A template's points, read with the head of its population, have no angle."""
    known = alignment(name)
    assert pose_deg([known.points], known.head_53())[0] == pytest.approx((0, 0, 0), abs=0.7)
    assert pose_deg([ALIGNMENTS["arcface-112"].points])[0] == pytest.approx((0, 0, 0), abs=0.4)


def test_templates_scale_with_the_crop() -> None:
    """In a crop of twice the size everything is twice as far apart, and the outermost corner stays the corner."""
    known = alignment("arcface-112")
    twice = known.points_in(224, 224)
    assert known.points_in(112, 112) == pytest.approx(np.array(known.points))
    assert twice + 0.5 == pytest.approx(2 * (np.array(known.points) + 0.5))
    assert known.inter_eye_px == pytest.approx(35.2377, abs=1e-3)


def test_an_unknown_alignment_is_named_with_the_known_ones() -> None:
    """A user's mistake ends in one line."""
    with pytest.raises(UserError, match=r"'ffhq': unknown; known alignments: arcface-112, fairface-224, phantom-112"):
        alignment("ffhq")


NO_POSE = [
    np.full((5, 2), 7.0),
    np.full((5, 2), np.nan),
    np.stack([np.arange(5.0), np.arange(5.0)], axis=1),
    np.array([[0, 0], [1, 0], [np.inf, 1], [0, 2], [1, 2]]),
]


@pytest.mark.parametrize("points", NO_POSE)
def test_points_without_a_pose_have_none(points: Float64) -> None:
    """One place, one line, NaN and infinity give NaN, and a sound face beside them is not touched."""
    both = np.stack([points, seen((20.0, -5.0, 3.0))[0]])
    found = pose_deg(both)
    assert np.isnan(found[0]).all()
    assert found[1] == pytest.approx((20, -5, 3), abs=1e-6)


def test_measures_by_hand() -> None:
    """Turned by 60 degrees the eyes are half as far apart, which is undone; 100 cos(60)^2 = 25, cos(20)^2 = 88 %."""
    turned, nodded = (
        {k: v[0] for k, v in landmark_measures(seen(p)).items()} for p in ((60.0, 0.0, 0.0), (0.0, 20.0, 0.0))
    )
    assert turned["inter_eye_px"] == pytest.approx(40.0)
    assert turned["yaw_quality"] == 25.0
    assert turned["pitch_quality"] == turned["roll_quality"] == 100.0
    assert nodded["pitch_quality"] == 88.0


def test_other_shapes_are_refused() -> None:
    """Sixty-eight points, or one face without its axis, are no five landmarks."""
    with pytest.raises(ValueError, match=r"five \(x, y\) points per face"):
        pose_deg(np.zeros((1, 68, 2)))
    with pytest.raises(ValueError, match="shape"):
        pose_deg(np.zeros((5, 2)))
