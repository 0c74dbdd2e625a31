"""The wide conditions of phantoms: profile, coverings with their exact masks, hard shadows, other ages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.adapters.phantom import gallery
from pipeline.adapters.phantom.ageing import aged
from pipeline.adapters.phantom.occluders import CLASSES, GLASSES, HAND, HAT, MASK, SCARF
from pipeline.adapters.phantom.renderer import render, render_with_truth
from pipeline.adapters.phantom.training import config, draws
from pipeline.adapters.phantom.traits import (
    IDENTITY_FIELDS,
    NUISANCE_FIELDS,
    ORDINARY_FIELDS,
    WIDE_FIELDS,
    WIDE_POSE,
    FloatArray,
    identity_column,
    nuisance_column,
    sample_identities,
    sample_nuisances,
)
from pipeline.adapters.phantom.truth import REGIONS
from pipeline.adapters.phantom.wide import widen

COVERS = [
    ({"glasses": 1.0, "glasses_tint": 1.0}, GLASSES),
    ({"face_mask": 1.0}, MASK),
    ({"face_mask": 2.0, "mask_drop": 0.6}, MASK),
    ({"hat": 1.0}, HAT),
    ({"hat": 2.0, "hat_low": 1.0}, HAT),
    ({"hat": 3.0}, SCARF),
    ({"hand": 1.0, "hand_side": 1.0}, HAND),
    ({"hand": 2.0, "hand_side": -1.0}, HAND),
]
GREEN = {"mask_r": 0.0, "mask_g": 0.9, "mask_b": 0.0, "hat_r": 0.0, "hat_g": 0.9, "hat_b": 0.0}


def rows(count: int, **values: float) -> FloatArray:
    """Nuisance rows of a frontal, evenly lit, neutral picture before a magenta wall, with the given values set."""
    out = np.zeros((count, len(NUISANCE_FIELDS)), dtype=np.float32)
    wall = {"background_r": 0.9, "background_g": 0.05, "background_b": 0.9}
    plain = {"scale": 1.0, "exposure": 1.0, "light_ambient": 0.4, "light_elevation_deg": 25.0, "cloth_b": 0.3}
    for name, value in (plain | wall | values).items():
        out[:, nuisance_column(name)] = value
    return out


def symmetric(count: int, seed: int = 4, **values: float) -> FloatArray:
    """Short-haired people without a parting or moles: left and right are alike but for the grain of their skin."""
    out = sample_identities(count, np.random.default_rng(seed))
    plain = {"hair_part": 0.0, "mole_size": 0.0, "freckles": 0.0, "hair_drop": 0.0, "hair_fringe": 0.0, "hair_bun": 0.0}
    for name, value in (plain | {"hair_cap": 0.03, "beard": 0.0, "moustache": 0.0} | values).items():
        out[:, identity_column(name)] = value
    return out


def test_wide_fields_at_their_defaults_change_no_pixel() -> None:
    """Whatever belongs to a covering or a shadow that is not there (its colour, its place) leaves every pixel alone."""
    rng = np.random.default_rng(1)
    people, plain = sample_identities(8, rng), sample_nuisances(8, rng)
    plain[:, nuisance_column("glasses_tint")] = 0.0
    idle = plain.copy()
    switches = {"shadow", "glasses_tint", "face_mask", "hat", "hand", "age_offset_years"}
    for field in WIDE_FIELDS:
        if field.name not in switches:
            idle[:, nuisance_column(field.name)] = rng.uniform(field.low, field.high, len(idle))
    first, second = render(people, plain), render(people, idle)
    assert (first.faces_NHWC == second.faces_NHWC).all()
    assert (first.landmarks_N52 == second.landmarks_N52).all()


def test_telling_the_truth_changes_no_pixel() -> None:
    """A picture that is drawn with its truth is the same picture."""
    rng = np.random.default_rng(2)
    people, how = sample_identities(4, rng), widen(sample_nuisances(4, rng), rng)
    alone = render(people, how, supersample=1.0)
    told, _ = render_with_truth(people, how, supersample=1.0)
    assert (alone.faces_NHWC == told.faces_NHWC).all()
    assert (alone.landmarks_N52 == told.landmarks_N52).all()


def test_a_wide_picture_does_not_depend_on_its_batch() -> None:
    """Drawn alone, a head with all its coverings and shadows looks as it does among others, up to rounding."""
    rng = np.random.default_rng(16)
    people, how = sample_identities(24, rng), widen(sample_nuisances(24, rng), rng)
    together, truth = render_with_truth(people, how, supersample=1.25)
    for index in range(0, 24, 3):
        alone, told = render_with_truth(people[index : index + 1], how[index : index + 1], supersample=1.25)
        gap = np.abs(together.faces_NHWC[index].astype(int) - alone.faces_NHWC[0].astype(int))
        assert gap.mean() < 0.1
        assert (truth.occlusion_NHW[index] != told.occlusion_NHW[0]).mean() < 0.001
        assert (truth.visible_N5[index] == told.visible_N5[0]).all()


def test_ordinary_draws_stay_ordinary() -> None:
    """The ordinary sampler leaves every wide condition at 0, and the wide one touches nothing that is ordinary."""
    plain = sample_nuisances(400, np.random.default_rng(3))
    assert not plain[:, [nuisance_column(field.name) for field in WIDE_FIELDS]].any()
    wide = widen(plain, np.random.default_rng(3))
    touched = {"glasses", *WIDE_POSE, *(field.name for field in WIDE_FIELDS)}
    for field in ORDINARY_FIELDS:
        column = nuisance_column(field.name)
        assert field.name in touched or (plain[:, column] == wide[:, column]).all(), field.name


def test_wide_draws_hold_their_ranges_and_reach_everything() -> None:
    """Drawn values are inside their ranges, kinds are whole numbers, and every kind and both profiles come up."""
    wide = widen(sample_nuisances(3000, np.random.default_rng(4)), np.random.default_rng(5))
    ranges = {f.name: (f.low, f.high) for f in NUISANCE_FIELDS} | WIDE_POSE
    for name, (low, high) in ranges.items():
        column = wide[:, nuisance_column(name)]
        assert np.float32(low) <= column.min() <= column.max() <= np.float32(high), name
    for field in WIDE_FIELDS:
        if field.unit == "kind":
            assert set(wide[:, nuisance_column(field.name)]) == set(range(int(field.high) + 1)), field.name
    for name, (low, high) in WIDE_POSE.items():
        column = wide[:, nuisance_column(name)]
        assert column.min() < 0.97 * low < 0.97 * high < column.max(), name


@pytest.mark.parametrize("yaw", [-90.0, -70.0, 50.0, 90.0])
def test_turned_heads_have_no_holes(yaw: float) -> None:
    """No wall shows through a head at any turn: not at nose, ear, hairline or chin."""
    people = sample_identities(8, np.random.default_rng(6))
    how = rows(8, yaw_deg=yaw)
    how[:, nuisance_column("pitch_deg")] = np.linspace(-30, 30, 8)
    how[:, nuisance_column("mouth_open")] = np.linspace(0, 1, 8)
    for face in render(people, how, supersample=1.0).faces_NHWC.astype(int):
        wall = (face[..., 0] > 180) & (face[..., 1] < 60) & (face[..., 2] > 180)
        regions, count = ndimage.label(wall, structure=np.ones((3, 3)))
        outside = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
        holes = [int((regions == n).sum()) for n in range(1, count + 1) if n not in outside]
        assert max(holes, default=0) <= 2  # lips that touch at the outline may enclose a pixel of wall


@pytest.mark.parametrize(
    "condition",
    [{}, {"shadow": 1.0}, *({"glasses_dark": 1.0} | cover for cover, _ in COVERS)],
    ids=lambda condition: "-".join(condition) or "bare",
)
def test_a_mirrored_scene_gives_the_mirrored_picture(condition: dict[str, float]) -> None:
    """The opposite turn under the opposite light gives the mirrored picture, mask and landmarks."""
    person = symmetric(1, hair_cap=0.0)
    mirror = {"yaw_deg": -1.0, "light_azimuth_deg": -1.0, "roll_deg": -1.0, "hand_side": -1.0}
    one = {"yaw_deg": 65.0, "light_azimuth_deg": 40.0, "roll_deg": 4.0, "hand_side": 1.0} | GREEN | condition
    other = {name: value * mirror.get(name, 1.0) for name, value in one.items()}
    (a, at), (b, bt) = (render_with_truth(person, rows(1, **c), supersample=1.0) for c in (one, other))
    gap = np.abs(a.faces_NHWC[0].astype(int) - b.faces_NHWC[0, :, ::-1].astype(int)).max(axis=2)
    assert gap.mean() < 2.5  # skin and hair have their own grain on either side
    assert (gap > 40).mean() < 0.01
    assert (at.occlusion_NHW[0] != bt.occlusion_NHW[0, :, ::-1]).mean() < 0.004
    swapped = b.landmarks_N52[0, [1, 0, 2, 4, 3]] * [-1, 1] + [111, 0]
    np.testing.assert_allclose(a.landmarks_N52[0], swapped, atol=2e-3)
    assert (at.visible_N5[0] == bt.visible_N5[0, [1, 0, 2, 4, 3]]).all()


@pytest.mark.parametrize(("cover", "kind"), COVERS)
@pytest.mark.parametrize("yaw", [0.0, 40.0, -75.0])
def test_the_mask_is_where_the_covering_is(cover: dict[str, float], kind: int, yaw: float) -> None:
    """Inside the mask the picture is another; outside it is the same, or darker where the covering keeps light off."""
    person = symmetric(1, seed=9, skin_tone_mst=3.0, hair_cap=0.0)
    bare = render(person, rows(1, yaw_deg=yaw), supersample=2.0).faces_NHWC[0].astype(int)
    drawn, truth = render_with_truth(person, rows(1, yaw_deg=yaw, **GREEN | cover), supersample=2.0)
    covered, mask = drawn.faces_NHWC[0].astype(int), truth.occlusion_NHW[0]
    assert set(np.unique(mask)) == {0, kind}
    assert (mask > 0).mean() > 0.01
    inside, outside = ndimage.binary_erosion(mask > 0), ~ndimage.binary_dilation(mask > 0, iterations=2)
    gap = np.abs(covered - bare).max(axis=2)
    if kind != HAND:  # a hand has the colour of the face it lies on
        assert (gap[inside] > 6).mean() > 0.97
    brighter = (covered - bare).max(axis=2)[outside]
    assert (brighter > 4).mean() < 0.005
    assert (gap[outside] > 25).mean() < 0.06


@pytest.mark.parametrize(
    ("values", "visible"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"glasses": 1.0}, [1, 1, 1, 1, 1]),
        ({"glasses": 1.0, "glasses_tint": 1.0, "glasses_size": 1.0}, [0, 0, 1, 1, 1]),
        ({"face_mask": 1.0}, [1, 1, 0, 0, 0]),
        ({"face_mask": 2.0, "mask_drop": 1.0}, [1, 1, 1, 0, 0]),
        ({"hat": 2.0}, [1, 1, 1, 1, 1]),
        ({"hat": 3.0}, [1, 1, 1, 1, 1]),
        ({"hand": 1.0}, [1, 1, 1, 0, 0]),
        ({"yaw_deg": 90.0}, [1, 0, 1, 1, 0]),
        ({"yaw_deg": -90.0}, [0, 1, 1, 0, 1]),
        ({"yaw_deg": 90.0, "face_mask": 1.0}, [1, 0, 0, 0, 0]),
    ],
)
def test_hidden_landmarks_are_told(values: dict[str, float], visible: list[int]) -> None:
    """The flag of a landmark says whether something lies before it; its place is stated in any case."""
    drawn, truth = render_with_truth(symmetric(3, seed=11), rows(3, **values), supersample=1.0)
    assert truth.visible_N5.astype(int).tolist() == [visible] * 3
    assert ((drawn.landmarks_N52 > 0) & (drawn.landmarks_N52 < 112)).all()


def test_what_lies_under_cloth_is_not_called_visible() -> None:
    """Masks lie close to the skin: of the landmarks that are told to be visible, none lies where all is covered."""
    rng = np.random.default_rng(17)
    people, how = symmetric(40, seed=18), rows(40, face_mask=1.0)
    how[:, nuisance_column("yaw_deg")] = rng.uniform(-80, 80, 40)
    how[:, nuisance_column("mask_drop")] = rng.uniform(0, 1, 40)
    drawn, truth = render_with_truth(people, how, supersample=1.0)
    for points, seen, mask in zip(drawn.landmarks_N52, truth.visible_N5, truth.occlusion_NHW, strict=True):
        for x, y in np.rint(points[seen]).astype(int):
            assert not mask[y - 1 : y + 2, x - 1 : x + 2].all()


@pytest.mark.parametrize("yaw", [-55.0, 0.0, 70.0])
def test_a_peak_stays_before_the_glasses_it_covers(yaw: float) -> None:
    """The peak of a cap over sunglasses hides the lenses from above, not the lenses the peak."""
    cap = {"hat": 2.0, "hat_low": 1.0, "pitch_deg": -30.0, "yaw_deg": yaw}
    how = np.concatenate([rows(1, **cap), rows(1, **cap, glasses=1.0, glasses_tint=1.0, glasses_size=1.0)])
    bare, worn = render_with_truth(np.repeat(symmetric(1), 2, axis=0), how, supersample=1.0)[1].occlusion_NHW
    assert (worn == GLASSES).any()
    assert ((bare == HAT) & (worn != HAT)).sum() < 0.01 * (bare == HAT).sum()


def test_hidden_shares_follow_the_covering() -> None:
    """A mask hides mouth and chin, sunglasses the eyes, a cap the forehead alone, nothing hides nothing."""
    wanted = [
        ({}, {}),
        ({"face_mask": 1.0}, {"mouth": (0.99, 1.0), "chin": (0.6, 1.0), "eyes": (0.0, 0.02), "forehead": (0.0, 0.0)}),
        ({"glasses": 1.0, "glasses_tint": 1.0}, {"eyes": (0.6, 1.0), "mouth": (0.0, 0.0), "chin": (0.0, 0.0)}),
        ({"hat": 2.0}, {"forehead": (0.2, 1.0), "eyes": (0.0, 0.05), "mouth": (0.0, 0.0)}),
    ]
    how = np.concatenate([rows(1, **values) for values, _ in wanted])
    hidden = render_with_truth(np.repeat(symmetric(1), len(wanted), axis=0), how, supersample=1.0)[1].hidden_NR
    assert not hidden[0].any()
    for shares, (_, limits) in zip(hidden, wanted, strict=True):
        for region, (low, high) in limits.items():
            assert low <= shares[REGIONS.index(region)] <= high, region


def test_a_clear_picture_hides_nothing() -> None:
    """Where nobody wears anything every pixel is of class 0, and every class that exists has a name."""
    truth = render_with_truth(symmetric(2), rows(2), supersample=1.0)[1]
    assert not truth.occlusion_NHW.any()
    assert sorted({GLASSES, MASK, HAT, HAND, SCARF}) == list(range(1, len(CLASSES)))


def test_hard_shadows_only_take_light_away() -> None:
    """No pixel is brighter with cast shadows than without; light from above the right darkens left of the nose."""
    person = np.repeat(symmetric(1, skin_tone_mst=3.0), 2, axis=0)
    how = rows(2, light_azimuth_deg=60.0, light_ambient=0.25)
    how[1, nuisance_column("shadow")] = 1.0
    faces, landmarks = render(person, how, supersample=1.0)
    soft, hard = faces.astype(int)
    assert (hard - soft).max() <= 1
    x, y = landmarks[0, 2]
    beside = np.s_[int(y) - 8 : int(y), int(x) - 14 : int(x) - 7]
    lit = np.s_[int(y) - 8 : int(y), int(x) + 8 : int(x) + 15]
    assert (soft - hard)[beside].mean() > (soft - hard)[lit].mean() + 5


def test_softness_blurs_the_edges_of_shadows() -> None:
    """The steepest change that shadows bring to the picture is steeper for a small lamp than for a wide one."""
    person = np.repeat(symmetric(1, skin_tone_mst=3.0), 3, axis=0)
    how = rows(3, light_elevation_deg=55.0, light_ambient=0.25, hat=2.0)
    how[1:, nuisance_column("shadow")] = 1.0
    how[2, nuisance_column("shadow_softness")] = 1.0
    none, sharp, soft = render(person, how, supersample=1.0).faces_NHWC[..., 1].astype(int)
    steepest = [np.quantile(np.abs(np.diff(none - one, axis=0))[45:105, 30:82], 0.99) for one in (sharp, soft)]
    assert steepest[0] > 1.3 * steepest[1]


def offset_rows(offsets: npt.NDArray[np.float64]) -> FloatArray:
    """Nuisance rows with these age offsets."""
    out = rows(len(offsets))
    out[:, nuisance_column("age_offset_years")] = offsets
    return out


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), first=st.floats(-20, 20), second=st.floats(-20, 20))
def test_nobody_grows_younger_with_age(seed: int, first: float, second: float) -> None:
    """A larger offset never means less age, grey or recession; everything else of the person stays."""
    people = sample_identities(16, np.random.default_rng(seed))
    low, high = (aged(people, offset_rows(np.full(16, value))) for value in sorted((first, second)))
    moving = ["age_years", "hair_grey", "hair_recession"]
    for name in moving:
        assert (low[:, identity_column(name)] <= high[:, identity_column(name)]).all(), name
    for field in IDENTITY_FIELDS:
        column = identity_column(field.name)
        if field.name not in moving:
            assert (low[:, column] == people[:, column]).all(), field.name
        assert low[:, column].min() >= np.float32(field.low)
        assert high[:, column].max() <= np.float32(field.high)


def test_an_age_offset_is_exact_and_begins_at_nothing() -> None:
    """The stated age is age plus offset, held within 18..80; offset 0 changes no bit, and a small one little."""
    people = sample_identities(300, np.random.default_rng(12))
    assert (aged(people, offset_rows(np.zeros(300))) == people).all()
    offsets = np.random.default_rng(13).uniform(-20, 20, 300)
    age = identity_column("age_years")
    np.testing.assert_allclose(
        aged(people, offset_rows(offsets))[:, age], np.clip(people[:, age] + offsets, 18, 80), atol=1e-4
    )
    for small in (-0.05, 0.05):
        assert np.abs(aged(people, offset_rows(np.full(300, small))) - people).max() < 0.06


def test_a_picture_shows_the_age_that_is_stated() -> None:
    """An offset draws the picture of the aged identity, pixel by pixel."""
    people = sample_identities(3, np.random.default_rng(14))
    how = offset_rows(np.array([-20.0, 7.0, 20.0]))
    shown = render(people, how, supersample=1.0).faces_NHWC
    assert (shown == render(aged(people, how), rows(3), supersample=1.0).faces_NHWC).all()


def test_a_wide_draw_is_an_ordinary_one_with_more_on_top(tmp_path: Path) -> None:
    """Asking for the wide conditions changes no identity and no ordinary condition but pose and who wears glasses."""
    plain = replace(config.short(tmp_path), draws={"A": config.Draw(1, 30, 4)})
    wide = replace(plain, draws={"A": config.Draw(1, 30, 4, wide=True)})
    (owner, who, how), (wide_owner, wide_who, wide_how) = (draws.rows_of(c, "A") for c in (plain, wide))
    assert (owner == wide_owner).all()
    assert (who == wide_who).all()
    assert wide_how[:, nuisance_column("face_mask")].any()
    for field in ORDINARY_FIELDS:
        if field.name not in {"glasses", *WIDE_POSE}:
            column = nuisance_column(field.name)
            assert (how[:, column] == wide_how[:, column]).all(), field.name


@pytest.mark.slow
def test_a_rendered_wide_draw_states_age_and_what_is_hidden(tmp_path: Path) -> None:
    """Read back, a wide draw has the ages that its pictures show and the truth of what they hide, row by row."""
    setup = replace(config.short(tmp_path), draws={"A": config.Draw(1, 2, 3), "W": config.Draw(2, 8, 5, wide=True)})
    for name in ("A", "W"):
        draws.render_draw(setup, name, 1)
    drawn = draws.load_draws(setup, ("A", "W"))
    visible, hidden = draws.load_truth(setup, ("A", "W"))
    assert len(visible) == len(hidden) == len(drawn.faces_NHWC) == 46
    _, who, how = draws.rows_of(setup, "W")
    age = who[:, identity_column("age_years")] + how[:, nuisance_column("age_offset_years")]
    np.testing.assert_allclose(drawn.truth("age_years")[6:], np.clip(age, 18, 80), atol=1e-4)
    told = render_with_truth(who, how, supersample=setup.supersample)[1]
    assert (visible[6:] == told.visible_N5).mean() > 0.99
    np.testing.assert_allclose(hidden[6:], told.hidden_NR, atol=0.02)
    assert not hidden[:6].any()


@pytest.mark.parametrize(
    "steps",
    [gallery.pose_steps(), gallery.light_steps(), gallery.expression_steps(), gallery.age_steps(), gallery.COVERINGS],
    ids=["pose", "light", "expression", "age", "coverings"],
)
def test_sweeps_of_the_gallery_stay_in_range(steps: list[dict[str, float]]) -> None:
    """Every step of a sweep sets fields that exist to values that they can have."""
    ranges = {f.name: (f.low, f.high) for f in NUISANCE_FIELDS} | WIDE_POSE
    for step in steps:
        for name, value in step.items():
            low, high = ranges[name]
            assert low <= value <= high, name
