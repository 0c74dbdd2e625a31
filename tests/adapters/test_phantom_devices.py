"""Training stages keep to the device they are given, and get the same numbers there as on the processor.

No GPU is needed. `Elsewhere` makes a second device out of torch's `lazy`, a device type without kernels of its own:
tensors that say they lie there hold their values on the processor and compute there, but an operation that mixes the
two devices is refused as a GPU refuses it, and numpy cannot read them. Both sides run kernels of the processor, so a
stage that keeps to its device, and draws what it would draw otherwise, gives the same numbers on both up to rounding.
What a GPU's own kernels make of them is not seen here.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.adapters.phantom.renderer import degrade
from pipeline.adapters.phantom.training import config, loop
from pipeline.adapters.phantom.training.__main__ import TRAINED, main
from pipeline.adapters.phantom.training.device import tensor_of
from pipeline.adapters.phantom.truth import REGIONS

OTHER = torch.device("lazy", 0)
aten = torch.ops.aten
ANY_DEVICES = {aten.copy_.default, aten._to_copy.default}
BY_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class There(Tensor):
    """A tensor of the other device; `held` has its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[There], held: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=OTHER
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor elsewhere, and no Elsewhere around it")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Is written to a checkpoint with its values."""
        return self.held.__reduce_ex__(protocol)


class Elsewhere(TorchDispatchMode):
    """While it is entered, there is a second device; `done` says what it did."""

    def __init__(self) -> None:
        super().__init__()
        self.done: set[Any] = set()

    def __enter__(self) -> Self:
        self.before = torch.__future__.get_overwrite_module_params_on_conversion(), torch._C._only_lift_cpu_tensors()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # `.data` of another class cannot be set
        torch._C._set_only_lift_cpu_tensors(True)  # lists become tensors on the processor, and then come here
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.__future__.set_overwrite_module_params_on_conversion(self.before[0])
        torch._C._set_only_lift_cpu_tensors(self.before[1])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute where the arguments are, or where `device` says."""
        named = dict(kwargs or {})
        there = refuse_mixture(func, args, named)
        if named.get("device") is not None:
            there = torch.device(named["device"]).type == OTHER.type
            named["device"] = torch.device("cpu")
        plain_args, plain_named = tree_map(lambda x: x.held if isinstance(x, There) else x, (args, named))
        made = func(*plain_args, **plain_named)
        self.done |= {func} if there else set()
        if there and torch.Tag.inplace_view in func.tags:
            with no_dispatch(), torch._C._IncludeDispatchKeyGuard(torch._C.DispatchKey.Meta):
                func(*args, **named)  # the shape of what is there changes with that of what it holds
        returns = func._schema.returns
        if returns and all(one.alias_info and one.alias_info.is_write for one in returns):
            return args[0]
        return tree_map(lambda x: There(x) if isinstance(x, Tensor) else x, made) if there else made


def refuse_mixture(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether the arguments lie on the other device; those of a GPU meet the processor's in few operations."""
    if func in BY_INDEX and isinstance(args[0], There):
        args = (args[0], *args[2:])  # what is on a GPU may be indexed from the processor
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [isinstance(x, There) for x in tensors]
    written_here = func._schema.is_mutable and not isinstance(args[0], There)
    may_be_single = torch.Tag.pointwise in func.tags and not written_here  # a number of the processor, to many of a GPU
    near = [x for x in tensors if not isinstance(x, There) and not (may_be_single and x.ndim == 0)]
    if any(there) and near and func not in ANY_DEVICES:
        raise RuntimeError(f"{func}: {tuple(near[0].shape)} of the processor meets what is elsewhere")
    return any(there)


def small(home: Path) -> config.Training:
    """The short configuration with fewer steps, people and pictures."""
    short = config.short(home)
    brief = dataclasses.replace(short.crops, steps=2, batch=2)

    def rounds(of: tuple[config.Round, ...]) -> tuple[config.Round, ...]:
        return tuple(dataclasses.replace(part, schedule=brief) for part in of)

    def draw(of: config.Draw) -> config.Draw:
        return dataclasses.replace(of, identities=2, pictures=min(of.pictures, 2))

    return dataclasses.replace(
        short,
        draws={name: draw(of) for name, of in short.draws.items() if name not in ("H", "E", "EA", "EW")},
        recognisers={role: rounds(of) for role, of in short.recognisers.items()},
        attributes=rounds(short.attributes[-1:]),
        likeness=dataclasses.replace(short.likeness, schedule=brief),
        **dict.fromkeys(("crops", "decoder", "flow", "reader", "finish"), brief),
        sampler={**short.sampler, "steps": 2},
    )


def write_draws(training: config.Training) -> None:
    """Write noise where renders would be: what a stage computes with is the same, and nothing is to be rendered."""
    for name, draw in training.draws.items():
        folder, count = training.home / "draws" / name, draw.identities * draw.pictures
        rng = np.random.default_rng(draw.number)
        folder.mkdir(parents=True)
        np.save(folder / "faces.npy", rng.integers(0, 256, (count, 112, 112, 3), dtype=np.uint8))
        np.save(folder / "landmarks.npy", rng.uniform(30, 80, (count, 5, 2)).astype(np.float32))
        if draw.wide:
            np.save(folder / "visible.npy", rng.random((count, 5)) < 0.8)
            np.save(folder / "hidden.npy", rng.random((count, len(REGIONS))).astype(np.float32))


def train(home: Path, stage: str, *words: str) -> None:
    """Run one stage, as from the command line."""
    assert main([stage, "--config", "short", "--home", str(home), *words]) == 0


def outputs(home: Path) -> set[str]:
    """Return which files stages have written."""
    return {p.relative_to(home).as_posix() for p in (*home.glob("checkpoints/*"), *home.glob("*.npz"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """A working folder in which every stage ran on the processor, and which files each wrote."""
    home = tmp_path_factory.mktemp("processor")
    write_draws(small(home))
    written: dict[str, list[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.CONFIGURATIONS, "short", small)
        for stage in TRAINED:
            before = outputs(home)
            train(home, stage)
            written[stage] = sorted(outputs(home) - before)
        yield home, written


def arrays(path: Path) -> list[npt.NDArray[Any]]:
    """Return every array and number of a checkpoint or of a file of arrays, flat."""
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return [stored[name].astype(np.float64).ravel() for name in sorted(stored.files)]
    leaves = tree_leaves(torch.load(path, weights_only=True))
    return [np.asarray(leaf, np.float64).ravel() for leaf in leaves if isinstance(leaf, (Tensor, int, float))]


@pytest.mark.parametrize("stage", TRAINED)
def test_a_stage_gives_elsewhere_what_it_gives_on_the_processor(
    trained: tuple[Path, dict[str, list[str]]], stage: str, tmp_path: Path
) -> None:
    """Told another device it reads checkpoints of the processor, mixes no devices, and writes the same numbers."""
    before, written = trained
    assert written[stage]
    home = tmp_path / "elsewhere"
    names = [Path(name).name for name in written[stage]]
    shutil.copytree(before, home, copy_function=os.link, ignore=shutil.ignore_patterns("*.jsonl", *names))
    with Elsewhere() as device:
        train(home, stage, "--device", str(OTHER), "--workers", "2")  # which are for the processor alone
    assert aten.addcdiv_.default in device.done  # AdamW's step
    for name in written[stage]:
        for there, here in zip(arrays(home / name), arrays(before / name), strict=True):
            assert np.linalg.norm(there - here) <= 0.01 * np.linalg.norm(here), name


class StoppedError(Exception):
    """Somebody ended a training in its middle."""


def regress(training: config.Training, *, stop: int | None = None, elsewhere: bool = False) -> torch.optim.Optimizer:
    """Fit a small net in four steps with every part of the loop, up to a step; return its AdamW."""
    schedule = config.Schedule(4, 8, 1.0, warmup=2)
    with OTHER if elsewhere else nullcontext():
        model = loop.initialised(lambda: nn.ModuleDict({"body": nn.Linear(4, 3)}), training.rng("reader", 1))
        optimisers = loop.muon_and_adamw(model, schedule.rate)

        def step(number: int, rng: np.random.Generator) -> dict[str, float]:
            if number == stop:
                raise StoppedError
            given = tensor_of(rng.standard_normal((8, 4), dtype=np.float32))
            loss = (model["body"](given) - given[:, :3]).square().mean()
            model.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
            return {"loss": float(loss.detach()), "norm": float(norm)}

        with pytest.raises(StoppedError) if stop else nullcontext():
            loop.run(
                "small", training, schedule, step, stream="reader", models={"model": model}, optimisers=optimisers,
                average=loop.Average(model),
            )  # fmt: skip
        return optimisers[1]


@pytest.mark.parametrize("first", [False, True])
def test_a_training_goes_on_upon_another_device(first: bool, tmp_path: Path) -> None:
    """Stopped on one device and continued on the other, either way round, it ends as if it had never moved."""
    whole, parts = config.short(tmp_path / "whole"), config.short(tmp_path / "parts")
    regress(whole)
    with Elsewhere():
        regress(parts, stop=2, elsewhere=first)
        regress(parts, elsewhere=not first)
    for there, here in zip(*(arrays(x.home / "checkpoints" / "small.pt") for x in (parts, whole)), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-8)


def test_steps_are_counted_on_the_processor_after_a_restart_too(tmp_path: Path) -> None:
    """AdamW reads its count in every step; from a GPU each reading would wait for all that was asked of it."""
    training = config.short(tmp_path)
    with Elsewhere():
        regress(training, stop=2, elsewhere=True)
        states = regress(training, elsewhere=True).state.values()
        assert states
        for state in states:
            assert (state["step"].device.type, state["exp_avg"].device) == ("cpu", OTHER)


def test_degraded_pictures_do_not_depend_on_the_device_of_the_stage() -> None:
    """Pictures are blurred on the processor wherever networks train."""
    faces = np.random.default_rng(1).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    blur, noise = np.array([0.9, 0.0], np.float32), np.array([0.0, 2.0], np.float32)
    here = degrade(faces, blur, noise, np.random.default_rng(2))
    with torch.device("meta"):  # holds no numbers at all
        np.testing.assert_array_equal(degrade(faces, blur, noise, np.random.default_rng(2)), here)


@pytest.mark.parametrize(
    "mix",
    [
        lambda far, near: far + near,
        lambda far, near: near @ far,
        lambda far, near: torch.cat((far, near)),
        lambda far, near: near[far.long()],
        lambda far, near: near.sum().add_(far.sum()),
        lambda far, near: far.numpy(),
        lambda far, near: np.asarray(far),
    ],
)
def test_the_other_device_refuses_what_a_gpu_refuses(mix: Callable[[Tensor, Tensor], Any]) -> None:
    """Operations of two devices, and reading without `.cpu()`, are errors there, or these tests would show nothing."""
    with Elsewhere():
        near = torch.ones(3, 3)
        far = near.to(OTHER)
        assert far.device == OTHER
        np.testing.assert_array_equal((2 * far + torch.tensor(1.0)).cpu().numpy(), np.full((3, 3), 3.0))
        np.testing.assert_array_equal((far[0] @ far).cpu().numpy(), np.full(3, 3.0))  # a change of shape is in this
        with pytest.raises((RuntimeError, TypeError)):
            mix(far, near)


@pytest.mark.parametrize("name", ["meta", "toaster"])
def test_a_device_that_cannot_compute_is_told_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device on which no number can be added ends with status 2 before anything is made."""
    with pytest.raises(SystemExit) as ended:
        main(["crops", "--config", "short", "--home", str(tmp_path / "home"), "--device", name])
    assert ended.value.code == 2
    assert f"--device {name}: " in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
