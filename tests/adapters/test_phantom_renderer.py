"""The phantom renderer draws what its rows say, always the same, and tells the truth about it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.adapters.phantom.gallery import demographic_rows, sheet
from pipeline.adapters.phantom.renderer import degrade, render
from pipeline.adapters.phantom.traits import (
    IDENTITY_FIELDS,
    NUISANCE_FIELDS,
    FloatArray,
    identity_column,
    nuisance_column,
    sample_identities,
    sample_nuisances,
)


def _plain(count: int, **values: float) -> FloatArray:
    """Nuisance rows of a frontal, evenly lit, neutral picture, with the given values set."""
    rows = np.zeros((count, len(NUISANCE_FIELDS)), dtype=np.float32)
    plain = {"scale": 1.0, "exposure": 1.0, "light_ambient": 0.5, "light_elevation_deg": 25.0}
    for name, value in (plain | {f"background_{c}": 0.5 for c in "rgb"} | values).items():
        rows[:, nuisance_column(name)] = value
    return rows


def _bare_face(count: int) -> FloatArray:
    """The same identity `count` times, without anything that could cover a cheek."""
    rows = np.repeat(sample_identities(1, np.random.default_rng(4)), count, axis=0)
    for name in ("beard", "moustache", "hair_drop", "hair_fringe", "freckles", "mole_size"):
        rows[:, identity_column(name)] = 0.0
    return rows


def _cheek_luminance(faces: npt.NDArray[np.uint8], landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean relative luminance of a patch below the eye at the height of the nose tip."""
    means = []
    for face, points in zip(faces, landmarks, strict=True):
        x, y = int(points[0, 0]), int(points[2, 1])
        patch = face[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3) / 255.0
        means.append(float((patch**2.2 @ [0.2126, 0.7152, 0.0722]).mean()))
    return np.array(means)


@pytest.mark.parametrize("side", [64, 112])
def test_shapes_and_types(side: int) -> None:
    """Pictures are uint8 RGB squares of the asked size, landmarks float32 inside them."""
    rng = np.random.default_rng(0)
    faces, landmarks = render(sample_identities(2, rng), sample_nuisances(2, rng), size_px=side, supersample=1.0)
    assert faces.shape == (2, side, side, 3)
    assert faces.dtype == np.uint8
    assert landmarks.shape == (2, 5, 2)
    assert landmarks.dtype == np.float32
    assert ((landmarks > 0) & (landmarks < side)).all()


def test_same_rows_give_the_same_picture() -> None:
    """Rendering is a pure function of its rows."""
    rng = np.random.default_rng(1)
    identities, nuisances = sample_identities(2, rng), sample_nuisances(2, rng)
    first, second = render(identities, nuisances), render(identities, nuisances)
    assert (first.faces_NHWC == second.faces_NHWC).all()
    assert (first.landmarks_N52 == second.landmarks_N52).all()


def test_a_picture_does_not_depend_on_its_batch() -> None:
    """A head drawn alone looks like the same head drawn among others, up to rounding."""
    rng = np.random.default_rng(2)
    identities, nuisances = sample_identities(6, rng), sample_nuisances(6, rng)
    together = render(identities, nuisances, supersample=1.25)
    for index in (0, 3, 5):
        alone = render(identities[index : index + 1], nuisances[index : index + 1], supersample=1.25)
        gap = np.abs(together.faces_NHWC[index].astype(int) - alone.faces_NHWC[0].astype(int))
        assert gap.mean() < 0.05
        np.testing.assert_allclose(together.landmarks_N52[index], alone.landmarks_N52[0], atol=1e-3)


def test_nobody_gives_an_empty_batch() -> None:
    """Zero rows give zero pictures."""
    rng = np.random.default_rng(3)
    rendering = render(sample_identities(0, rng), sample_nuisances(0, rng))
    assert rendering.faces_NHWC.shape == (0, 112, 112, 3)


def test_landmarks_of_a_frontal_head_are_symmetric() -> None:
    """Eyes and mouth corners of an unturned head mirror each other around the nose."""
    points = render(_bare_face(1), _plain(1), supersample=1.0).landmarks_N52[0]
    middle = points[2, 0]
    assert points[0, 0] + points[1, 0] == pytest.approx(2 * middle, abs=1e-3)
    assert points[3, 0] + points[4, 0] == pytest.approx(2 * middle, abs=1e-3)
    assert points[0, 1] == pytest.approx(points[1, 1], abs=1e-3)
    assert points[0, 1] < points[2, 1] < points[3, 1]


def test_opposite_turns_mirror_the_landmarks() -> None:
    """Turning right moves the nose tip right of the eyes' middle, turning left the same distance left."""
    right = render(_bare_face(1), _plain(1, yaw_deg=25.0), supersample=1.0).landmarks_N52[0]
    left = render(_bare_face(1), _plain(1, yaw_deg=-25.0), supersample=1.0).landmarks_N52[0]
    offset_right = right[2, 0] - right[:2, 0].mean()
    assert offset_right > 3.0
    assert left[2, 0] - left[:2, 0].mean() == pytest.approx(-offset_right, abs=1e-2)


def test_pitch_and_roll_move_landmarks_their_way() -> None:
    """Looking up lifts the nose tip towards the eyes; positive roll turns the eyes clockwise by its angle."""
    up, down = (render(_bare_face(1), _plain(1, pitch_deg=p), supersample=1.0).landmarks_N52[0] for p in (15.0, -15.0))
    assert up[2, 1] - up[0, 1] < down[2, 1] - down[0, 1] - 3.0
    rolled = render(_bare_face(1), _plain(1, roll_deg=10.0), supersample=1.0).landmarks_N52[0]
    across = rolled[1] - rolled[0]
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(10.0, abs=0.05)


def test_eyes_are_painted_at_their_landmarks() -> None:
    """The darkest place near each eye landmark, the pupil, is within two pixels of it."""
    identity = _bare_face(1)
    identity[:, identity_column("skin_tone_mst")] = 3.0
    identity[:, identity_column("eye_opening")] = 1.0
    for yaw in (0.0, 20.0):
        faces, landmarks = render(identity, _plain(1, yaw_deg=yaw), supersample=2.0)
        grey = faces[0].astype(float).mean(axis=2)
        for x, y in landmarks[0, :2]:
            x0, y0 = round(float(x)) - 4, round(float(y)) - 3
            window = grey[y0 : y0 + 7, x0 : x0 + 9]
            weight = np.maximum(np.quantile(window, 0.2) - window, 0.0)
            rows, columns = np.mgrid[y0 : y0 + 7, x0 : x0 + 9]
            found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
            assert np.linalg.norm(found - [x, y]) < 2.0


def test_skin_gets_darker_along_the_monk_scale() -> None:
    """Cheek luminance falls from tone 3 to 10 under the same light; swatches 1 to 3 are about equally light."""
    identities = _bare_face(10)
    identities[:, identity_column("skin_tone_mst")] = np.arange(1, 11)
    faces, landmarks = render(identities, _plain(10))
    luminance = _cheek_luminance(faces, landmarks)
    assert (np.diff(luminance[2:]) < 0).all()
    assert luminance[:3].min() > luminance[4]
    assert luminance[9] < 0.15 * luminance[2]


def test_features_stay_readable_on_every_tone() -> None:
    """Around eyes and mouth, light and dark differ clearly in pixel values for the darkest and lightest tones."""
    identities = _bare_face(10)
    identities[:, identity_column("skin_tone_mst")] = np.arange(1, 11)
    faces, landmarks = render(identities, _plain(10, light_azimuth_deg=20.0))
    for face, points in zip(faces, landmarks, strict=True):
        for x, y in points[[0, 1]]:
            window = face[round(y) - 4 : round(y) + 5, round(x) - 7 : round(x) + 8].astype(float).mean(axis=2)
            assert np.quantile(window, 0.97) - np.quantile(window, 0.03) > 70
        lips = face[round(points[3, 1]) - 5 : round(points[3, 1]) + 6, 48:64].astype(float).mean(axis=2)
        assert lips.max() - lips.min() > 25


@pytest.mark.parametrize(
    ("name", "value"), [("smile", 1.0), ("mouth_open", 1.0), ("glasses", 1.0), ("light_azimuth_deg", 80.0)]
)
def test_each_nuisance_changes_the_face(name: str, value: float) -> None:
    """Expression, glasses and light are visible in the middle of the picture."""
    neutral, changed = (
        render(_bare_face(1), n, supersample=1.0).faces_NHWC for n in (_plain(1), _plain(1, **{name: value}))
    )
    gap = np.abs(neutral.astype(int) - changed.astype(int))[:, 36:96, 26:86]
    assert (gap.max(axis=3) > 20).mean() > 0.01


@pytest.mark.parametrize("count", [1, 500])
def test_sampled_rows_stay_in_range(count: int) -> None:
    """Every drawn value lies inside its field's range and is finite."""
    rng = np.random.default_rng(5)
    for rows, fields in (
        (sample_identities(count, rng), IDENTITY_FIELDS),
        (sample_nuisances(count, rng), NUISANCE_FIELDS),
    ):
        assert rows.shape == (count, len(fields))
        assert rows.dtype == np.float32
        for column, field in zip(rows.T, fields, strict=True):
            assert np.isfinite(column).all()
            assert column.min() >= np.float32(field.low), field.name
            assert column.max() <= np.float32(field.high), field.name


def test_field_names_are_unique_and_found() -> None:
    """Every name leads to its own column; an unknown name is an error."""
    assert [identity_column(f.name) for f in IDENTITY_FIELDS] == list(range(len(IDENTITY_FIELDS)))
    assert [nuisance_column(f.name) for f in NUISANCE_FIELDS] == list(range(len(NUISANCE_FIELDS)))
    with pytest.raises(KeyError):
        identity_column("smile")


def test_presentation_is_bimodal_and_tones_are_even() -> None:
    """Hardly anybody is drawn between the two presentations, and all ten tones are equally common."""
    rows = sample_identities(4000, np.random.default_rng(6))
    presentation = rows[:, identity_column("presentation")]
    assert 0.45 < (presentation > 0.5).mean() < 0.55
    assert (np.abs(presentation - 0.5) < 0.12).mean() < 0.01
    counts, _ = np.histogram(rows[:, identity_column("skin_tone_mst")], bins=9, range=(1, 10))
    assert counts.min() > 0.8 * counts.mean()


@pytest.mark.parametrize("name", ["nose_width", "nose_bridge", "lip_upper", "lip_lower", "eye_tilt", "jaw_width"])
def test_shape_does_not_follow_skin_tone(name: str) -> None:
    """Shape of nose, lips, eyes and jaw has no correlation with skin tone."""
    rows = sample_identities(8000, np.random.default_rng(7))
    tone, shape = rows[:, identity_column("skin_tone_mst")], rows[:, identity_column(name)]
    assert abs(np.corrcoef(tone, shape)[0, 1]) < 0.04


def test_degrade_blurs_adds_noise_and_repeats() -> None:
    """Zero blur and noise change nothing; blur smooths, noise roughens, and equal generators give equal noise."""
    faces = render(_bare_face(3), _plain(3), supersample=1.0).faces_NHWC
    blur, noise = np.array([0.0, 1.5, 0.0], np.float32), np.array([0.0, 0.0, 8.0], np.float32)
    first = degrade(faces, blur, noise, np.random.default_rng(8))
    again = degrade(faces, blur, noise, np.random.default_rng(8))
    rough = np.abs(np.diff(first.astype(int), axis=2)).mean(axis=(1, 2, 3))
    assert (first == again).all()
    assert (first[0] == faces[0]).all()
    assert rough[1] < rough[0] < rough[2]


def test_gallery_lays_out_tones_presentations_and_ages() -> None:
    """The gallery has sixty rows, six for each whole tone, and a sheet holds every picture."""
    identities, nuisances = demographic_rows(np.random.default_rng(9))
    tones, counts = np.unique(identities[:, identity_column("skin_tone_mst")], return_counts=True)
    assert tones.tolist() == list(range(1, 11))
    assert set(counts) == {6}
    assert len(nuisances) == len(identities)
    assert sheet(np.zeros((7, 8, 8, 3), np.uint8), 3).size == (24, 24)
