"""Recognisers as torch state dicts: recorded outputs of the upstream program, layouts, gradients, rows in any company.

Legend: N rows, H W C image axes, E dimensions.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.adapters.models import FormulaWeights, ModelWeights
from pipeline.adapters.recognisers import iresnet_network as nets
from pipeline.adapters.recognisers.iresnet import FaceNetwork, IResNetOptions, IResNetRecogniser, NetworkOptions
from pipeline.adapters.recognisers.iresnet_norm import IResNetNorm, IResNetNormOptions
from pipeline.domain.errors import BadVectorError, CalibrationError, ModelError
from pipeline.domain.ports import Measurer, Recogniser
from pipeline.domain.records import UInt8
from pipeline.domain.weights import WeightsRef

GOLDEN = Path(__file__).parents[1] / "golden"
MADE_UP = {"uri": "formula:iresnet18"}


class Kept(ModelWeights):
    """Brings weights by formula, made up once for all tests."""

    def tensors(self, ref: WeightsRef, names: Any = None) -> Any:
        """Return what was made before, where it was."""
        return made_up(tuple(names.items())) if ref.uri.startswith("formula:") else super().tensors(ref, names)


@functools.cache
def made_up(names: tuple[tuple[str, tuple[int, ...]], ...]) -> Any:
    return FormulaWeights().tensors(WeightsRef(**MADE_UP), dict(names))


def recorded() -> Any:
    return np.load(GOLDEN / "iresnet18.npz")


def by_formula(depth: int = 18, layout: nets.Layout = "arcface", eps: float = 1e-5) -> nets.IResNet:
    network = nets.empty(depth, layout, eps)
    tensors = made_up(tuple(nets.stored_shapes(network, depth, layout).items()))
    return nets.filled(network, tensors, depth, layout)


def recogniser(tmp_path: Path, **options: Any) -> IResNetRecogniser:
    given = {"name": "given", "depth": 18, "weights": MADE_UP, **options}
    return IResNetRecogniser(IResNetOptions.model_validate(given), Kept(tmp_path / "cache"))


def faces(count: int, seed: int = 0) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)


def test_names_and_shapes_are_those_of_the_published_network() -> None:
    """Depth 18 has the recorded tensors, every one and no other."""
    listed = json.loads((GOLDEN / "keys_iresnet18.json").read_text())
    mine = {name: list(value.shape) for name, value in nets.empty(18, "arcface", 1e-5).state_dict().items()}
    assert mine == {name: facts["shape"] for name, facts in listed.items()}


def test_depth_100_has_the_published_number_of_parameters() -> None:
    """65.16 million, in stages of 3, 13, 30 and 3 blocks."""
    network = nets.empty(100, "arcface", 1e-5)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(65.16e6, rel=1e-3)
    blocks = [len(list(network.get_submodule(f"layer{n}").children())) for n in (1, 2, 3, 4)]
    assert blocks == [3, 13, 30, 3]


def test_features_are_the_recorded_ones() -> None:
    """In float32 to 1e-4, in float64 to 1e-9; the last stage's activations are as strong as recorded."""
    told, network = recorded(), by_formula()
    x_NCHW = torch.from_numpy(told["x"])
    with torch.inference_mode():
        np.testing.assert_allclose(network(x_NCHW).numpy(), told["features"], atol=1e-4, rtol=0)
        assert float(network.trunk(x_NCHW).abs().mean()) == pytest.approx(float(told["layer4_meanabs"][4]), rel=1e-5)
        np.testing.assert_allclose(network.double()(x_NCHW.double()).numpy(), told["f64_features"], atol=1e-9, rtol=0)


def test_pictures_come_through_the_part_unchanged(tmp_path: Path) -> None:
    """The recorded pictures, handed to the part, give the recorded features: no scaling, order or mirror intervenes."""
    told = recorded()
    network = recogniser(tmp_path).network
    with torch.inference_mode():
        found = network.features(torch.from_numpy(told["x"])).numpy()
    np.testing.assert_allclose(found, told["features"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("eps", [2e-5, 1e-5])
def test_the_epsilon_of_batch_norms_matters(eps: float) -> None:
    """With MagFace's own epsilon the features are others than recorded, by more than the tolerance."""
    told = recorded()
    with torch.inference_mode():
        off = np.abs(by_formula(eps=eps)(torch.from_numpy(told["x"])).numpy() - told["features"]).max()
    assert (off > 3e-4) == (eps == 2e-5)


def test_it_is_a_recogniser_of_unit_rows(tmp_path: Path) -> None:
    """It keeps the port's promise: float32, length one, its space named by the weights' digest."""
    given = recogniser(tmp_path)
    assert isinstance(given, Recogniser)
    emb_NE = given.embed(faces(3))
    assert emb_NE.shape == (3, 512)
    assert emb_NE.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(emb_NE, axis=1), 1.0, atol=1e-6)
    assert given.space.weights_sha256 == given.card.sha256 == FormulaWeights().sha256(WeightsRef(**MADE_UP))
    assert (given.space.norm, given.space.dimensions, given.space.alignment) == ("unit", 512, "arcface-112")


def test_a_raw_space_keeps_the_length(tmp_path: Path) -> None:
    """With `norm: raw` rows are the network's own; scaled to unit length they are those of `norm: unit`."""
    raw_NE = recogniser(tmp_path, norm="raw").embed(faces(2))
    lengths = np.linalg.norm(raw_NE, axis=1)
    assert (lengths > 5).all()
    np.testing.assert_allclose(raw_NE / lengths[:, None], recogniser(tmp_path).embed(faces(2)), atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_rows_do_not_depend_on_their_company(tmp_path: Path, batch: int) -> None:
    """Place, neighbours and padding change no bit of a feature, whatever the batch's size: the card says so."""
    given = recogniser(tmp_path)
    assert given.card.row_independent
    pictures = faces(batch)
    emb_NE = given.embed(pictures)
    np.testing.assert_array_equal(given.embed(pictures[::-1])[::-1], emb_NE)
    padded = given.embed(np.repeat(pictures[:1], batch, axis=0))
    np.testing.assert_array_equal(padded, np.repeat(emb_NE[:1], batch, axis=0))


def test_channels_scaling_and_mirror_are_as_stated(tmp_path: Path) -> None:
    """BGR is swapping channels by hand, MagFace's scaling is x / 255, and `flip` adds the mirror image's features."""
    pictures = faces(2)
    plain = recogniser(tmp_path, norm="raw")
    np.testing.assert_array_equal(
        recogniser(tmp_path, norm="raw", channels="bgr").embed(pictures), plain.embed(pictures[..., ::-1])
    )
    both = recogniser(tmp_path, norm="raw", flip=True).embed(pictures)
    np.testing.assert_allclose(both, plain.embed(pictures) + plain.embed(pictures[:, :, ::-1]), atol=1e-4)
    scaled = recogniser(tmp_path, norm="raw", channels="bgr", mean=(0, 0, 0), std=(255, 255, 255)).embed(pictures)
    x_NCHW = torch.from_numpy(pictures[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        np.testing.assert_allclose(scaled, by_formula()(x_NCHW).numpy(), atol=1e-3)


def test_gradients_reach_the_pictures_and_no_weight(tmp_path: Path) -> None:
    """Features can be differentiated after pixels, as numbers say too, even where the part was first used for faces."""
    given = recogniser(tmp_path)
    given.embed(faces(1))
    network = given.network.ready().double()
    x_NCHW = torch.from_numpy(recorded()["x"][:1]).double().requires_grad_()
    target = torch.linspace(-1, 1, 512, dtype=torch.float64)
    (slope,) = torch.autograd.grad((given.network.features(x_NCHW) @ target).sum(), x_NCHW)
    step = torch.zeros_like(x_NCHW)
    step[0, 1, 50, 60] = 1e-5
    with torch.no_grad():
        up, down = (float((given.network.features(x_NCHW + s) @ target).sum()) for s in (step, -step))
    assert float(slope[0, 1, 50, 60]) == pytest.approx((up - down) / 2e-5, rel=1e-3)
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_the_norm_is_a_measure(tmp_path: Path) -> None:
    """`feature_norm` is the length of the raw feature, one number per face, the same in any company."""
    options = IResNetNormOptions.model_validate({"depth": 18, "weights": MADE_UP})
    given = IResNetNorm(options, Kept(tmp_path))
    assert isinstance(given, Measurer)
    found = given.measure(faces(3))["feature_norm"]
    raw_NE = recogniser(tmp_path, norm="raw").embed(faces(3))
    np.testing.assert_allclose(found, np.linalg.norm(raw_NE.astype(np.float64), axis=1), rtol=1e-9)
    assert given.measure(faces(0))["feature_norm"].shape == (0,)


def saved(path: Path, depth: int, layout: nets.Layout, group: str = "") -> Path:
    """Write a state dict as its publication does, in the names of its layout, and return where."""
    network = nets.empty(depth, layout, 1e-5)
    tensors = FormulaWeights().tensors(WeightsRef(**MADE_UP), nets.stored_shapes(network, depth, layout))
    state = {f"{group}{name}": value for name, value in tensors.items()}
    torch.save({"epoch": 24, "state_dict": state} if group else state, path)
    return path


def test_magface_files_are_read_by_their_group(tmp_path: Path) -> None:
    """MagFace's names are ArcFace's inside a wrapper's group, with a classifier beside them."""
    path = saved(tmp_path / "magface.pth", 18, "arcface", "features.module.")
    given = recogniser(tmp_path, weights={"uri": str(path)})
    np.testing.assert_array_equal(given.embed(faces(2)), recogniser(tmp_path).embed(faces(2)))


def test_adaface_files_are_read_in_their_layout(tmp_path: Path) -> None:
    """AdaFace's names lead to the same places; its first stage has no shortcut of its own, its end no slope."""
    path = saved(tmp_path / "adaface.ckpt", 18, "adaface", "model.")
    names = set(torch.load(path, weights_only=True)["state_dict"])
    assert {"model.input_layer.0.weight", "model.body.0.res_layer.3.weight", "model.output_layer.3.bias"} <= names
    assert "model.body.0.shortcut_layer.0.weight" not in names
    assert "model.body.2.shortcut_layer.0.weight" in names
    assert "model.output_layer.4.weight" not in names
    given = recogniser(tmp_path, weights={"uri": str(path)}, layout="adaface", norm="raw")
    pictures = faces(2)
    with torch.inference_mode():
        x_NCHW = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        direct = adaface_by_hand(torch.load(path, weights_only=True)["state_dict"], x_NCHW)
    np.testing.assert_allclose(given.embed(pictures), direct.numpy(), atol=1e-3)


def adaface_by_hand(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return AdaFace's features by walking its blocks in the order in which the file numbers them."""
    f = torch.nn.functional

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        mean, var = state[f"model.{name}.running_mean"], state[f"model.{name}.running_var"]
        return f.batch_norm(x, mean, var, state.get(f"model.{name}.weight"), state.get(f"model.{name}.bias"), eps=1e-5)

    x = f.prelu(norm("input_layer.1", f.conv2d(x, state["model.input_layer.0.weight"], padding=1)),
                state["model.input_layer.2.weight"])  # fmt: skip
    for number in range(8):
        at, stride = f"body.{number}", 1 if number % 2 else 2
        y = f.conv2d(norm(f"{at}.res_layer.0", x), state[f"model.{at}.res_layer.1.weight"], padding=1)
        y = f.prelu(norm(f"{at}.res_layer.2", y), state[f"model.{at}.res_layer.3.weight"])
        y = norm(f"{at}.res_layer.5", f.conv2d(y, state[f"model.{at}.res_layer.4.weight"], stride=stride, padding=1))
        through = state.get(f"model.{at}.shortcut_layer.0.weight")
        kept = x[:, :, ::stride, ::stride]
        x = y + (kept if through is None else norm(f"{at}.shortcut_layer.1", f.conv2d(kept, through)))
    x = norm("output_layer.0", x).flatten(1)
    return norm("output_layer.4", f.linear(x, state["model.output_layer.3.weight"], state["model.output_layer.3.bias"]))


@pytest.mark.parametrize(("stored", "asked"), [(34, 18), (18, 34)])
def test_weights_of_another_depth_are_refused(tmp_path: Path, stored: int, asked: int) -> None:
    """A shallow network never loads from a deep one's file, nor the other way round."""
    path = saved(tmp_path / "other.pth", stored, "arcface")
    with pytest.raises(ModelError, match=r"larger model|lacks"):
        recogniser(tmp_path, weights={"uri": str(path)}, depth=asked).embed(faces(1))


def test_what_cannot_be_is_refused() -> None:
    """A commercial use that no licence grants, AdaFace of depth 200, and a division by zero are mistakes."""
    for wrong, said in (
        ({"commercial": True}, "needs a licence"),
        ({"layout": "adaface", "depth": 200}, "no depth 200"),
        ({"std": (1, 0, 1)}, "std"),
    ):
        with pytest.raises(ValidationError, match=said):
            NetworkOptions.model_validate({"weights": MADE_UP, **wrong})


def test_the_licence_is_that_of_the_publication(tmp_path: Path) -> None:
    """Weights that are known here bring licence and source; others say that none is stated, and allow no commerce."""
    digest = "a" * 64
    known = WeightsRef(uri=f"hf://BooBooWu/Vec2Face@{'0' * 40}/weights/arcface-r100-glint360k.pth", sha256=digest)
    weights = ModelWeights(tmp_path)
    card = FaceNetwork(NetworkOptions(weights=known), weights).card("judge")
    assert "WebFace4M" in card.licence
    assert not card.commercial_use
    assert card.sha256 == digest
    other = FaceNetwork(NetworkOptions(weights=WeightsRef(**MADE_UP)), weights).card("judge")
    assert (other.licence, other.commercial_use) == ("not stated", False)
    stated = NetworkOptions(weights=known, licence="bought", commercial=True)
    assert FaceNetwork(stated, weights).card("judge").commercial_use


def test_without_a_calibration_no_rate_can_be_given(tmp_path: Path) -> None:
    """Thresholds as rates need a calibration, and the message says how to make one."""
    with pytest.raises(CalibrationError, match="facemint calibrate iresnet"):
        recogniser(tmp_path).calibration.kind(probe_images=1, reference_images=1)


@pytest.mark.parametrize("norm", ["unit", "raw"])
def test_features_that_are_no_numbers_are_refused(tmp_path: Path, norm: str) -> None:
    """A NaN among the weights ends as an error, and never as an embedding."""
    given = recogniser(tmp_path, norm=norm)
    given.network.ready().fc.bias = torch.nn.Parameter(torch.full((512,), float("nan")))
    with pytest.raises(BadVectorError):
        given.embed(faces(1))
