"""Training: networks, margins and augmentation by their papers, determinism, resuming, and that something is learnt."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.adapters.trainers.batches import Batches, as_pictures, augmented, drawn
from pipeline.adapters.trainers.margins import MarginHead, arcface, cosface
from pipeline.adapters.trainers.networks import KeyedDropout, build, parameters
from pipeline.adapters.trainers.options import PRESETS, Augmentation, MarginNode, TrainingOptions
from pipeline.adapters.trainers.spool import spool_faces, spool_pairs
from pipeline.adapters.trainers.training import Embedder, TorchTrainer, rate_at
from pipeline.domain.errors import OutputError, UserError
from pipeline.domain.ports import LabelledFace
from pipeline.domain.rng import Key, Stream
from pipeline.domain.verification import combined

SIDE = 16


def tiny(**changes: Any) -> TrainingOptions:
    """Return a recipe that trains in a second on pictures of 16 pixels."""
    raw: dict[str, Any] = {
        "name": "tiny",
        "side_px": SIDE,
        "network": {"use": "small", "widths": [16], "blocks": 1, "shrink": 2, "embedding": 16},
        "loss": {"use": "cosface", "scale": 16.0, "margin": 0.2},
        "epochs": 6,
        "batch": 10,
        "rate": 0.1,
        "embed_batch": 8,
    }
    return TrainingOptions(**{**raw, **changes})


def faces(people: int = 8, images: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy pictures of people who are blotches of their own, and whose each is."""
    rng = np.random.default_rng(seed)
    who = rng.normal(0, 60, (people, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    labels = np.repeat(np.arange(people), images).astype(np.int64)
    noisy = 128 + who[labels] + rng.normal(0, 50, (len(labels), SIDE, SIDE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


def trained(options: TrainingOptions | None = None, seed: int = 0, **where: Any) -> Embedder:
    """Return the network that a recipe makes of the toy faces."""
    pictures, labels = faces()
    trainer = TorchTrainer(options or tiny(), **where)
    return trainer.train(pictures, labels, seed, what="toys", tell=lambda *_: None)


@pytest.mark.slow
def test_ir_se50_has_the_published_size_and_trains() -> None:
    """43,797,696 parameters (the published 43.8 M), 512 dimensions, and gradients that reach the first layer."""
    options = TrainingOptions(name="ir-se50", **PRESETS["ir-se50"])
    model = build(options, drawn(0, 0))
    head = MarginHead(options.loss, 5, 512, drawn(0, 1))
    for module in model.modules():
        if isinstance(module, KeyedDropout):
            module.key(drawn(0, 4), torch.device("cpu"))

    emb = model.train()(torch.from_numpy(drawn(0, 3).standard_normal((2, 3, 112, 112), dtype=np.float32)))
    head(emb, torch.tensor([0, 3]), 0.5).backward()

    assert parameters(model) == 43_797_696
    assert emb.shape == (2, 512)
    first = next(model.parameters()).grad
    assert first is not None
    assert 0 < float(first.abs().sum()) < math.inf
    assert all(p.grad is not None for p in model.parameters())


def test_the_small_net_has_a_few_hundred_thousand_parameters() -> None:
    """The embedded recipe stays small enough for a CPU."""
    options = TrainingOptions(name="phantom-small", **PRESETS["phantom-small"])

    assert 100_000 < parameters(build(options, drawn(0, 0))) < 1_000_000


@pytest.mark.parametrize("name", PRESETS)
def test_shipped_recipes_are_valid_and_differ(name: str) -> None:
    """Every shipped recipe is one, and its digest is its own; changing anything changes the digest."""
    options = TrainingOptions(name=name, **PRESETS[name])
    digests = {TrainingOptions(name=n, **p).digest for n, p in PRESETS.items()}

    assert len(digests) == len(PRESETS)
    assert options.model_copy(update={"rate": 0.099}).digest not in digests


@pytest.mark.parametrize(
    "change",
    [
        {"side_px": 18},
        {"network": {"use": "ir-se50"}},
        {"schedule": "steps", "drops": [0.5, 0.5]},
        {"rate": math.nan},
        {"epochs": 0},
        {"unknown": 1},
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, Any]) -> None:
    """A side that the net cannot divide, drops that do not rise, NaN and unknown keys are mistakes."""
    with pytest.raises(ValidationError):
        tiny(**change)


def turned(cos: float) -> float:
    """Return ArcFace's cosine for a margin of 0.4."""
    angle = math.acos(cos) + 0.4
    return math.cos(angle) if angle < math.pi else cos - 0.4 * math.sin(0.4)


@pytest.mark.parametrize(("margin_of", "expected"), [(cosface, lambda cos: cos - 0.4), (arcface, turned)])
def test_margins_are_those_of_their_papers(
    margin_of: Callable[..., torch.Tensor], expected: Callable[[float], float]
) -> None:
    """CosFace takes the margin off the own cosine, ArcFace adds it to the own angle; other classes stay."""
    cos = torch.linspace(-0.99, 0.99, 40)[:, None].repeat(1, 3)
    owner = torch.arange(40) % 3

    out = margin_of(cos, owner, 0.4)

    for row in range(40):
        own = int(owner[row])
        assert float(out[row, own]) == pytest.approx(expected(float(cos[row, own])), abs=1e-5)
        others = [i for i in range(3) if i != own]
        assert out[row, others].tolist() == cos[row, others].tolist()


def test_arcface_falls_everywhere_and_has_gradients_at_its_ends() -> None:
    """A smaller cosine never gets a larger logit, also where angle and margin pass pi; no gradient is NaN at +-1."""
    cos = torch.linspace(-1, 1, 401)[:, None].clone().requires_grad_()
    out = arcface(cos, torch.zeros(401, dtype=torch.int64), 0.5)
    out.sum().backward()

    assert (out.diff(dim=0) >= 0).all()
    assert torch.isfinite(cos.grad if cos.grad is not None else torch.tensor(math.nan)).all()


def test_a_margin_makes_the_loss_harder_and_warms_up() -> None:
    """The loss grows with the margin, which starts at nothing and is whole when its warm-up ends."""
    emb = torch.from_numpy(drawn(0, 0).standard_normal((6, 8), dtype=np.float32))
    owner = torch.arange(6) % 3

    def loss(progress: float, margin: float = 0.3, warm_up: float = 0.5) -> float:
        node = MarginNode(use="arcface", scale=16, margin=margin, warm_up=warm_up)
        return float(MarginHead(node, 3, 8, drawn(0, 1))(emb, owner, progress).detach())

    assert loss(0.0) == loss(0.7, margin=0.0)
    assert loss(0.0) < loss(0.25) < loss(0.5) == loss(1.0) == loss(0.0, warm_up=0.0)


def test_people_it_has_not_seen_are_told_apart_better_after_training() -> None:
    """Genuine pairs of new people come closer than impostor pairs, clearly more than before the training."""
    new, labels = faces(people=20, images=4, seed=9)

    def separation(network: Embedder) -> float:
        unit = combined(network.embed(new), network.embed(np.ascontiguousarray(new[:, :, ::-1])))
        cos, same = unit @ unit.T, labels[:, None] == labels
        genuine, impostor = cos[same & ~np.eye(len(labels), dtype=bool)], cos[~same]
        return float((genuine.mean() - impostor.mean()) / np.sqrt((genuine.var() + impostor.var()) / 2))

    before = Embedder(build(tiny(), drawn(0, 0)).eval(), tiny(), torch.device("cpu"))
    after = TorchTrainer(tiny()).train(*faces(people=30), 0, what="toys", tell=lambda *_: None)
    assert separation(after) > 1.6 * separation(before)


def test_a_training_repeats_to_the_bit() -> None:
    """The same seed gives the same embeddings, another seed others; torch's global generator plays no part."""
    options = tiny(network={"use": "small", "widths": [16], "blocks": 1, "embedding": 16, "dropout": 0.3},
                   augment={"erase": 0.5, "shift_px": 2, "light": 0.2})  # fmt: skip
    new, _ = faces(seed=4)
    first = trained(options).embed(new)
    torch.empty(5).normal_()

    assert np.array_equal(trained(options).embed(new), first)
    assert not np.array_equal(trained(options, seed=1).embed(new), first)


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_loader_threads_change_nothing(threads: int) -> None:
    """Batches prepared ahead are the same ones in the same order, and their threads end with the epoch."""
    new, _ = faces(seed=4)
    options = tiny(epochs=2, augment={"erase": 0.5, "shift_px": 2, "coarse": 0.3})

    assert np.array_equal(trained(options, loaders=threads).embed(new), trained(options).embed(new))
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Stopped in the third epoch and started again, it repeats no whole epoch and ends where it would have ended."""
    pictures, labels = faces()
    new, _ = faces(seed=4)
    trainer = TorchTrainer(tiny(), checkpoints=tmp_path)

    def stop(done: int, _total: int, _loss: float) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(pictures, labels, 0, what="toys", tell=stop)
    seen: list[int] = []
    resumed = trainer.train(pictures, labels, 0, what="toys", tell=lambda done, *_: seen.append(done))

    assert seen[0] == 9
    assert np.array_equal(resumed.embed(new), trained().embed(new))
    assert not list(tmp_path.glob("*.partial"))


def test_a_checkpoint_of_other_faces_or_options_is_not_taken(tmp_path: Path) -> None:
    """Checkpoints belong to recipe, faces and seed; a damaged one is named in one line."""
    pictures, labels = faces()
    steps: list[int] = []
    for options, what, seed in ((tiny(), "a", 0), (tiny(), "b", 0), (tiny(rate=0.05), "a", 0), (tiny(), "a", 1)):
        before = len(steps)
        trainer = TorchTrainer(options, checkpoints=tmp_path)
        trainer.train(pictures, labels, seed, what=what, tell=lambda done, *_: steps.append(done))
        assert len(steps) - before == 24
    (damaged,) = list(tmp_path.glob("*seed1.pt"))
    damaged.write_bytes(b"nothing")
    with pytest.raises(UserError, match="remove it"):
        TorchTrainer(tiny(), checkpoints=tmp_path).train(pictures, labels, 1, what="a", tell=lambda *_: None)


def test_a_checkpoint_that_cannot_be_written_ends_in_one_line(tmp_path: Path) -> None:
    """A folder that went away is a mistake of output, and no traceback."""
    with pytest.raises(OutputError, match="--work") as caught:
        trained(checkpoints=tmp_path / "gone")
    assert "\n" not in str(caught.value)


def test_left_out_people_are_not_learnt_from() -> None:
    """Faces labelled -1 change nothing: the training is that of the others alone."""
    pictures, labels = faces()
    kept = labels < 6
    new, _ = faces(seed=4)
    trainer = TorchTrainer(tiny())
    without = trainer.train(pictures, np.where(kept, labels, -1), 0, what="x", tell=lambda *_: None)
    alone = trainer.train(pictures[kept], labels[kept], 0, what="x", tell=lambda *_: None)

    assert np.array_equal(without.embed(new), alone.embed(new))


def test_an_embedding_does_not_depend_on_its_neighbours() -> None:
    """Alone, in the midst of others or at another place, a face has the same embedding."""
    network = trained()
    new, _ = faces(seed=4)

    whole = network.embed(new)

    assert np.array_equal(network.embed(new[5:6]), whole[5:6])
    assert np.array_equal(network.embed(new[::-1].copy())[::-1], whole)


def test_reduced_precision_trains_and_differs_in_name_alone_by_its_digest() -> None:
    """bfloat16 training on the CPU gives finite float32 embeddings, and is another recipe by digest."""
    half = tiny(precision="bfloat16", epochs=1)

    emb = trained(half).embed(faces(seed=4)[0])

    assert emb.dtype == np.float32
    assert np.isfinite(emb).all()
    assert half.digest != tiny(epochs=1).digest


def test_a_loss_that_is_no_number_ends_in_one_line() -> None:
    """A rate that explodes is a mistake of the recipe, said so, and no table of NaN."""
    with pytest.raises(UserError, match="lower its rate") as caught:
        trained(tiny(rate=10.0, weight_decay=1.0, momentum=0.99, epochs=200, warm_up=0.0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    """What cannot be computed on is a user's mistake of one line."""
    with pytest.raises(UserError, match="--device"):
        TorchTrainer(tiny(), device=device)


def test_each_epoch_sees_every_picture_once_in_another_order() -> None:
    """Batches of an epoch are a permutation of the faces; the next epoch has another."""
    pictures, labels = faces(images=5)
    batches = Batches(pictures, labels, batch=10, augment=Augmentation(), seed=3)
    orders = []
    for epoch in (0, 1):
        batches.enter(epoch)
        owners = torch.cat([batches[step].owner_N for step in range(len(batches))])
        assert sorted(owners.tolist()) == sorted(labels.tolist())
        orders.append(owners.tolist())

    assert orders[0] != orders[1]


def test_without_augmentation_pictures_are_mirrored_and_nothing_else() -> None:
    """Half of the pictures, more or less, are mirrored; the others are as they were."""
    pictures = as_pictures(faces(people=20, images=5)[0])
    out = augmented(pictures, Augmentation(), drawn(0, 3))
    same = (out == pictures).flatten(1).all(1)
    turned = (out == pictures.flip(3)).flatten(1).all(1)

    assert (same ^ turned).all()
    assert 30 < int(turned.sum()) < 70


def test_erasing_takes_a_share_of_the_pictures_by_a_share_of_their_area() -> None:
    """As many pictures as asked for lose a rectangle of 2 to 33 % of their area, more or less by rounding."""
    pictures = torch.ones(400, 3, 32, 32)
    out = augmented(pictures, Augmentation(erase=0.25), drawn(0, 3))
    lost = (out == 0).all(dim=1).flatten(1).float().mean(1)

    assert 70 < int((lost > 0).sum()) < 130
    assert float(lost[lost > 0].min()) > 0.01
    assert float(lost.max()) < 0.4


def test_every_augmentation_stays_in_range_and_changes_something() -> None:
    """Moved, relit, tinted and coarsened pictures are finite, within -1..1, and not what they were."""
    pictures = as_pictures(faces()[0])
    plain = augmented(pictures, Augmentation(), drawn(0, 3))
    for change in ({"shift_px": 3}, {"zoom": 0.2}, {"light": 0.5}, {"colour": 0.3}, {"coarse": 1.0}):
        out = augmented(pictures, Augmentation(**change), drawn(0, 3))
        assert out.shape == pictures.shape
        assert float(out.abs().max()) <= 1.0001
        assert not torch.equal(out, plain), change


def test_rates_follow_their_schedule() -> None:
    """Steps divide by ten at their drops, the cosine ends near nothing, warm-up rises."""
    steps = tiny(schedule="steps", drops=[0.5, 0.75], warm_up=0.1)
    cosine = tiny()

    assert [round(rate_at(steps, p), 6) for p in (0.05, 0.2, 0.5, 0.8)] == [0.05, 0.1, 0.01, 0.001]
    assert rate_at(cosine, 0.0) == 0.1
    assert rate_at(cosine, 0.5) == pytest.approx(0.05)
    assert rate_at(cosine, 0.999) < 1e-5


class Pictures:
    """A small source of labelled faces."""

    space = None

    def __init__(self, *shapes: tuple[int, int, int], name: str = "pictures") -> None:
        """Take the size of each."""
        self.name, self._shapes = name, shapes

    def __iter__(self) -> Any:
        """Yield one person after the other in turns."""
        for number, shape in enumerate(self._shapes):
            face = np.full(shape, number, np.uint8)
            yield LabelledFace(label="ab"[number % 2], name=str(number), face_HWC=face)


def test_spooled_faces_come_back_and_leave_no_file(tmp_path: Path) -> None:
    """Pixels, labels and order survive the spool; the digest tells sources apart; the folder is empty at once."""
    table = spool_faces(Pictures(*[(4, 4, 3)] * 5), tmp_path)

    assert table.faces_NHWC[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert table.labels_N.tolist() == [0, 1, 0, 1, 0]
    assert table.label_names == ("a", "b")
    assert table.digest != spool_faces(Pictures(*[(4, 4, 3)] * 4), tmp_path).digest
    assert list(tmp_path.iterdir()) == []


def test_sources_that_are_no_pictures_of_one_size_are_refused(tmp_path: Path) -> None:
    """Mixed sizes and empty sources end in one line, and leave no file behind."""
    with pytest.raises(UserError, match="1 is 5 x 4 pixels"):
        spool_faces(Pictures((4, 4, 3), (4, 5, 3)), tmp_path)
    with pytest.raises(UserError, match="no face here"):
        spool_faces(Pictures(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_spooled_pairs_lie_side_by_side(tmp_path: Path) -> None:
    """Pair p is pictures 2p and 2p + 1, and nobody says who is on them."""
    pairs = [(np.full((4, 4, 3), n, np.uint8), np.full((4, 4, 3), n + 1, np.uint8), n % 4 == 0) for n in (0, 2, 4)]
    table, same = spool_pairs("set.bin", pairs, tmp_path)

    assert table.faces_NHWC[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert same.tolist() == [True, False, True]
    assert len(table.label_names) == 6
    twice, _ = spool_pairs("set.bin", [*pairs, pairs[0]], tmp_path)
    assert len(twice.label_names) == 6
    assert twice.labels_N[-2:].tolist() == [0, 1]


def test_training_draws_are_keys_of_the_evaluation_stream() -> None:
    """What is drawn is what the key (seed, evaluation, epoch, step, part) gives, and nothing else."""
    assert drawn(5, 3, 2, 1).random() == Key(5, Stream.EVALUATION, 2, 1, 3).generator().random()
