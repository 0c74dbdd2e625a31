"""What twins do to a face: each kind its own kind of harm, where it belongs, and nothing that was not drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from jobs import wiring
from jobs.components import COMPONENTS
from pipeline.adapters.twins.geometry import Head, face_area
from pipeline.domain.records import Float32, Sample, UInt8
from pipeline.domain.rng import Key, Stream

KINDS: list[dict[str, Any]] = [
    {"use": "face-mask"},
    {"use": "sunglasses"},
    {"use": "occluder"},
    {"use": "low-resolution"},
    {"use": "compression"},
    {"use": "blur"},
    {"use": "blur", "kind": "motion", "px": 7.0},
    {"use": "darkness"},
]


def parent(yaw_deg: float = 0.0) -> Sample:
    """Return the numbers of an accepted image."""
    nothing: Float32 = np.zeros(1, np.float32)
    return Sample("i00000000-s0000-a00", 0, 0, 0, {"yaw_deg": 1.0}, {"yaw_deg": yaw_deg}, nothing)


def built(alignment: str = "phantom-112", **options: Any) -> Any:
    """Return a twin as the wiring builds it."""
    options_class = wiring.load(COMPONENTS["twins"][options["use"]][0])
    return wiring.build("twins", options_class.model_validate({"share": 0.5, **options}), alignment)


def face(side: int = 112) -> UInt8:
    """Return a made-up face: a skin oval on a green wall, with fine texture everywhere."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    oval = ((x - 0.5) / 0.3) ** 2 + ((y - 0.55) / 0.42) ** 2 < 1
    picture = np.where(oval[..., None], (190, 150, 130), (70, 110, 80)).astype(np.float64)
    picture += 14 * np.sin(2.1 * np.arange(side))[:, None, None] * np.cos(1.7 * np.arange(side))[None, :, None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def made(
    sample: Sample | None = None, number: int = 0, side: int = 112, **options: Any
) -> tuple[UInt8, dict[str, float]]:
    """Return a twin's pixels and what was drawn."""
    rng = Key(1, Stream.TWIN, number, 0, 1).generator()
    pixels, facts = built(**options).apply(face(side), sample or parent(), rng)
    return pixels, dict(facts)


def changed(pixels: UInt8) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return where a twin differs clearly from the face it was made of."""
    return np.asarray(np.abs(pixels.astype(int) - face(len(pixels)).astype(int)).max(axis=2) > 12)


@pytest.mark.parametrize("side", [32, 112, 160])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_twin_is_a_function_of_pixels_and_key(options: dict[str, Any], side: int) -> None:
    """Same shape, another picture, equal for an equal key; the parent's pixels are left as they were."""
    before = face(side)
    kept = before.copy()
    rng = Key(1, Stream.TWIN, 0, 0, 1).generator()
    pixels, facts = built(**options).apply(before, parent(), rng)
    again, same = made(side=side, **options)
    np.testing.assert_array_equal(before, kept)
    np.testing.assert_array_equal(pixels, again)
    assert dict(facts) == same
    assert pixels.shape == (side, side, 3)
    assert pixels.dtype == np.uint8
    assert (pixels != before).any()
    assert facts
    assert all(np.isfinite(v) for v in facts.values())


@pytest.mark.parametrize("options", [KINDS[0], KINDS[1], KINDS[2], KINDS[6], KINDS[7]], ids=str)
def test_another_key_draws_another_twin(options: dict[str, Any]) -> None:
    """What is drawn at all differs from image to image."""
    assert len({made(number=n, **options)[0].tobytes() for n in range(6)}) == 6


def test_a_mask_covers_mouth_and_nose_and_leaves_the_eyes() -> None:
    """Lips and tip of the nose are hidden, brows and eyes are seen, and the wall beside the face is too."""
    for number in range(5):
        where = changed(made(number=number, use="face-mask")[0])
        assert where[68:92, 46:66].mean() > 0.8
        assert not where[:54, 25:87].any()
        assert where[:, :12].mean() == 0


def test_glasses_cover_the_eyes_and_leave_the_mouth() -> None:
    """Both eyes of the alignment are behind dark lenses."""
    pixels, facts = made(use="sunglasses")
    for x in (40, 71):
        assert pixels[46:53, x - 3 : x + 4].mean() < 70
    assert not changed(pixels)[66:].any()
    assert 0.9 <= facts["opacity"] <= 0.98


@pytest.mark.parametrize("use", ["face-mask", "sunglasses"])
def test_what_a_face_wears_turns_with_it(use: str) -> None:
    """Turned left is the mirror image of turned right, and not the same; it follows what was measured, not asked."""

    def overlap(one: Any, other: Any) -> float:
        return float((one & other).sum() / (one | other).sum())

    right, left, ahead = (changed(made(parent(yaw), use=use)[0]) for yaw in (35.0, -35.0, 0.0))
    assert overlap(right, left[:, ::-1]) > 0.85 > overlap(right, left)
    assert overlap(ahead, ahead[:, ::-1]) > 0.85
    unread = replace(parent(), conditions={"yaw_deg": 35.0}, measures={})
    np.testing.assert_array_equal(changed(made(unread, use=use)[0]), right)


def test_a_nose_turns_forward_and_an_ear_back() -> None:
    """On a face turned to image right the nose moves right and the near ear left, as on a head."""
    turned, ahead = (Head.of("phantom-112", 112, parent(yaw)) for yaw in (30.0, 0.0))
    places = [(0.0, 0.7, 0.3), (1.0, 0.2, -0.6)]
    (nose, ear), (nose_ahead, ear_ahead) = turned.pixels(places), ahead.pixels(places)
    assert nose[0] > nose_ahead[0] + 3
    assert ear[0] < ear_ahead[0] - 3


def test_the_alignment_says_where_the_eyes_are() -> None:
    """On the 112-px template of InsightFace the frame lies on its published points; other crops have their own."""
    head = Head.of("arcface-112", 112, parent())
    (left,) = head.pixels([(-0.5, 0.0, 0.0)])
    (right,) = head.pixels([(0.5, 0.0, 0.0)])
    np.testing.assert_allclose([left, right], [(38.2946, 51.6), (73.5318, 51.6)], atol=0.15)
    (mouth,) = head.pixels([(0.0, 1.0, 0.0)])
    assert mouth[1] == pytest.approx(92.3, abs=0.2)
    assert Head.of("phantom-112", 112, parent()).centre_px[1] < head.centre_px[1]


def test_an_occluder_hides_the_share_that_is_recorded() -> None:
    """The share hidden lies within what was asked for, and grows with it."""
    head = Head.of("phantom-112", 112, parent())
    inside = face_area(head) > 0.5
    for low, high in ((0.1, 0.15), (0.5, 0.55)):
        pixels, facts = made(use="occluder", area=(low, high))
        assert low - 0.02 <= facts["share"] <= high + 0.02
        assert changed(pixels)[inside].mean() == pytest.approx(facts["share"], abs=0.15)
    with pytest.raises(ValidationError, match="smaller share comes first"):
        built(use="occluder", area=(0.5, 0.1))


def detail(pixels: UInt8) -> float:
    """Return the mean step between neighbouring pixels."""
    return float(np.abs(np.diff(pixels.astype(float), axis=1)).mean())


def test_fewer_pixels_and_more_blur_leave_less_detail() -> None:
    """Resolution and focus order pictures as they should, and a motion blurs along its way only."""
    resolutions = [detail(made(use="low-resolution", px=px)[0]) for px in (7, 14, 28, 56)]
    assert resolutions == sorted(resolutions)
    blurs = [detail(made(use="blur", px=px)[0]) for px in (4.0, 2.0, 1.0)]
    assert blurs == sorted(blurs)
    flat = np.full((112, 112, 3), 77, np.uint8)
    rng = Key(1, Stream.TWIN).generator()
    for options in KINDS[3:7]:
        pixels, _ = built(**options).apply(flat, parent(), rng)
        assert np.abs(pixels.astype(int) - 77).max() <= 1, "nothing to blur, nothing lost"


def test_compression_loses_more_at_lower_quality() -> None:
    """The distance to the original falls as quality rises."""
    loss = [np.abs(made(use="compression", quality=q)[0].astype(int) - face()).mean() for q in (5, 20, 60)]
    assert loss == sorted(loss, reverse=True)


def test_a_stop_is_half_the_light() -> None:
    """Without noise a stop halves linear light: sRGB 188 is half of white's light, and becomes 137 at a stop less."""
    grey = np.full((8, 8, 3), 188, np.uint8)
    dark, _ = built(use="darkness", stops=1, noise=0).apply(grey, parent(), Key(1, Stream.TWIN).generator())
    assert set(np.unique(dark)) == {137}
    noisy, _ = built(use="darkness", stops=1).apply(grey, parent(), Key(1, Stream.TWIN).generator())
    assert noisy.std() > 0
