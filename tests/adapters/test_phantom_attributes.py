"""The attribute model is taught and measured by what is true of pictures, and says what it reads under stated names."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.phantom import attributes as product
from pipeline.adapters.phantom import loading, traits, truth
from pipeline.adapters.phantom.attributes import PhantomAttributes, PhantomAttributesOptions
from pipeline.adapters.phantom.networks_readers import ATTRIBUTE_TARGETS, FLAG_TARGETS, SHARE_TARGETS, SPREAD_TARGETS
from pipeline.adapters.phantom.training import attributes, config, draws, export, measure
from pipeline.adapters.phantom.training.config import Round, Schedule
from pipeline.adapters.phantom.training.measure_attributes import area_under_curve, correlations, coverage

NAMES = [name for name, _, _ in ATTRIBUTE_TARGETS]


def drawn_by_hand(setup: config.Training, *names: str) -> None:
    """Write noise in place of the pictures of some draws, and of wide ones a truth."""
    rng = np.random.default_rng(5)
    for name in names:
        folder, draw = setup.home / "draws" / name, setup.draws[name]
        folder.mkdir(parents=True)
        count = draw.identities * draw.pictures
        np.save(folder / "faces.npy", rng.integers(0, 256, (count, 112, 112, 3), dtype=np.uint8))
        np.save(folder / "landmarks.npy", rng.uniform(20, 90, (count, 5, 2)).astype(np.float32))
        if draw.wide:
            hidden = rng.random((count, len(truth.REGIONS)), dtype=np.float32)
            hidden[0], hidden[1] = np.nan, [0.0, 1.0, np.nan, 0.5, np.nan, np.nan]
            np.save(folder / "hidden.npy", hidden)
            np.save(folder / "visible.npy", rng.random((count, 5)) < 0.7)


def test_what_is_true_of_pictures_comes_from_their_draws(tmp_path: Path) -> None:
    """Every target has a truth: a mean over the regions in sight, NaN where nothing is known, flags by what is worn."""
    setup = config.short(tmp_path)
    drawn_by_hand(setup, "B", "W")
    drawn = draws.load_draws(setup, ("B", "W"))
    told = attributes.truth_of(setup, ("B", "W"), drawn)
    assert list(told) == NAMES
    wide = attributes.wide_pictures(setup, ("B", "W"))
    assert wide.sum() == 16 == len(wide) - 64
    glasses = drawn.truth("glasses") > 0.5
    assert glasses[~wide].any()
    for name in SHARE_TARGETS:  # frames hide something that nobody counted in ordinary pictures
        framed = name in {"occlusion", "occlusion_eyes", "occlusion_nose", "occlusion_cheeks"}
        np.testing.assert_array_equal(np.isnan(told[name][~wide]), glasses[~wide] & framed)
        assert not np.nan_to_num(told[name][~wide]).any()
    assert math.isnan(told["occlusion"][64])
    assert told["occlusion"][65] == pytest.approx(0.5)
    for name in FLAG_TARGETS:
        assert set(told[name].tolist()) <= {0.0, 1.0} or name == "presentation"
    tint = drawn.truth("glasses_tint")
    np.testing.assert_array_equal(told["sunglasses"] > 0.5, glasses & (tint >= 0.3))
    for name in ("face_mask", "hat", "hand"):
        np.testing.assert_array_equal(told[name] > 0.5, drawn.truth(name) > 0)
        assert not told[name][~wide].any()
    first = draws.Drawn(*(part[:10] for part in vars(drawn).values()))
    np.testing.assert_array_equal(attributes.truth_of(setup, ("B",), first)["yaw_deg"], told["yaw_deg"][:10])


@given(ordinary=st.integers(0, 60), wide=st.integers(0, 60), batch=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_batch_has_its_share_of_wide_pictures(ordinary: int, wide: int, batch: int, seed: int) -> None:
    """No row comes twice, a third is wide where both kinds are there, and the step's generator alone decides."""
    if not ordinary + wide:
        return
    rows = np.random.default_rng(seed).permutation(ordinary + wide)
    plain, of_wide = np.sort(rows[:ordinary]), np.sort(rows[ordinary:])
    found, again = (attributes.batch_rows(plain, of_wide, batch, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(found, again)
    assert (np.diff(found) > 0).all()
    taken = np.isin(found, of_wide).sum()
    if not ordinary or not wide:
        assert len(found) == min(batch, ordinary + wide)
    else:
        assert taken == min(round(batch / 3), wide)
        assert len(found) == taken + min(batch - taken, ordinary)


def test_what_is_not_known_teaches_nothing() -> None:
    """Readings of unknown shares and landmarks out of sight move no part of the loss and get no gradient."""
    rng = torch.Generator().manual_seed(3)
    values, points, spreads = (
        torch.randn(shape, generator=rng, requires_grad=True)
        for shape in ((4, len(NAMES)), (4, 5, 2), (4, len(SPREAD_TARGETS)))
    )
    wanted, spots, seen = torch.zeros(4, len(NAMES)), torch.zeros(4, 5, 2), torch.ones(4, 5)
    column = NAMES.index("occlusion_eyes")
    wanted[1, column], seen[2, 3] = torch.nan, 0.0
    parts = attributes.losses((values, points, spreads), wanted, spots, seen)
    sum(parts.values(), torch.zeros(())).backward()
    assert values.grad is not None
    assert points.grad is not None
    assert spreads.grad is not None
    unknown = torch.zeros(4, len(NAMES), dtype=torch.bool)
    unknown[1, column] = True
    assert torch.equal(values.grad == 0, unknown)
    assert torch.equal((points.grad == 0).all(2), seen == 0)
    assert spreads.grad[1, SPREAD_TARGETS.index("occlusion_eyes")] == 0
    other = values.detach().clone()
    other[1, column] = 1e6
    told = attributes.losses((other, points, spreads), wanted, spots, seen)
    for name, part in parts.items():
        assert torch.equal(told[name], part), name


def test_stopped_training_of_the_reader_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Four steps on ordinary and wide pictures in one go, and two and two, end with the same weights."""

    def trained(home: Path, *lengths: int) -> dict[str, torch.Tensor]:
        setup = config.short(home)
        drawn_by_hand(setup, "B", "C", "W")
        for steps in lengths:
            schedule = Schedule(steps, 4, 1.0, decay=0.0, warmup=2)
            rounds = (Round(("B", "C"), Schedule(2, 4, 1e-3, warmup=2), muon=False), Round(("B", "W"), schedule))
            attributes.train_attributes(replace(setup, attributes=rounds))
        return dict(attributes.load_attributes(setup).state_dict())

    whole, parts = trained(tmp_path / "a", 4), trained(tmp_path / "b", 2, 4)
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that stands for the shipped weights; its card has one figure and no model."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "card.json").write_text('{"models": {}, "figures": {"generator": {"identities": 3}}}')
    monkeypatch.setattr(loading, "WEIGHTS", folder)
    loading.card.cache_clear()
    yield folder
    loading.card.cache_clear()


def test_measuring_the_attribute_model_alone_leaves_the_other_figures(weights: Path, tmp_path: Path) -> None:
    """No other model is there, nor asked for; the card gets figures of ordinary and of wide pictures beside its own."""
    setup = config.short(tmp_path)
    drawn_by_hand(setup, "B", "W", "E", "EW")
    setup = replace(setup, attributes=(Round(("B", "W"), Schedule(2, 4, 1.0, warmup=2)),))
    attributes.train_attributes(setup)
    export.export(setup, weights, ["attributes"])
    measure.measure_all(setup, weights, ["attributes"])
    card = json.loads((weights / "card.json").read_text())
    assert card["figures"]["generator"] == {"identities": 3}
    told, facts = card["figures"]["attributes"], card["models"]["attributes"]
    assert set(SPREAD_TARGETS) == set(told["within_90_interval"])
    assert set(told["wide"]["worn"]) == {*FLAG_TARGETS} - {"presentation"}
    assert told["wide"]["mean_error"]["yaw_deg"] > 0
    assert {"row_independent", "confusion"} <= set(facts)
    assert facts["draws"]["draws"].keys() == set(config.ROLE_DRAWS["attributes"])


def test_readings_have_the_names_and_ranges_that_are_stated() -> None:
    """Even untrained, the model says exactly its names: probabilities and shares within 0..1, spreads above 0."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = attributes.AttributeModel().eval()
    reader = PhantomAttributes(PhantomAttributesOptions(use="phantom-attributes"))
    vars(reader)["_network"] = model
    found = reader.measure(np.random.default_rng(6).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8))
    assert set(found) == set(reader.names)
    assert len(set(reader.names)) == len(reader.names)
    for name, values in found.items():
        assert (values.shape, values.dtype) == ((5,), np.float64), name
        if name.endswith("_sd"):
            assert (values > 0).all(), name
        elif name.endswith("_p") or "=" in name or name.startswith("occlusion"):
            assert ((values >= 0) & (values <= 1)).all(), name
    same = attributes.read(model, np.random.default_rng(6).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8))
    np.testing.assert_allclose(found["occlusion"], same["occlusion"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["face_mask_p"], same["face_mask"], rtol=1e-5)


def test_lists_of_what_hides_a_face_are_one() -> None:
    """Renderer, network and adapter name the same regions in one order, and the same things that are worn."""
    assert product.REGIONS == truth.REGIONS
    assert product.OCCLUSION == SHARE_TARGETS
    assert ("presentation", *product.WORN) == FLAG_TARGETS
    known = {field.name for field in (*traits.IDENTITY_FIELDS, *traits.NUISANCE_FIELDS)}
    assert {*NAMES} - known == {*SHARE_TARGETS, "sunglasses"}


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_area_under_the_curve_is_that_of_a_double_loop(rows: list[tuple[int, bool]]) -> None:
    """Of every pair of one that is there and one that is not it counts who has the higher value."""
    values, there = np.array([v for v, _ in rows], np.float64), np.array([t for _, t in rows])
    if there.all() or not there.any():
        return
    wins = [float(a > b) + 0.5 * float(a == b) for a in values[there] for b in values[~there]]
    assert area_under_curve(values, there) == pytest.approx(np.mean(wins))


def test_figures_leave_out_what_is_not_known() -> None:
    """Coverage and correlation are of known values alone, and what does not vary has no correlation."""
    true = {"smile": np.array([0.0, 1.0, np.nan, 0.5], np.float32), "occlusion": np.zeros(4, np.float32)}
    found = {"smile": np.array([0.1, 0.9, 0.7, 0.9], np.float32), "occlusion": np.full(4, 0.2, np.float32)}
    found |= {"smile_sd": np.full(4, 0.1, np.float32), "occlusion_sd": np.full(4, 0.1, np.float32)}
    known = [0, 1, 3]
    r = np.corrcoef(found["smile"][known], true["smile"][known])[0, 1]
    assert correlations(found, true) == {"smile": pytest.approx(r, abs=1e-4)}
    assert coverage(found, true, ("smile", "occlusion")) == {"smile": pytest.approx(2 / 3, abs=1e-4), "occlusion": 0.0}
