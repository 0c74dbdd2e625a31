"""Reading weights that strangers made: nothing in them runs, what is damaged is one line, layouts meet by name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.adapters.models.layouts import plain, resolved
from pipeline.adapters.models.reading import describe, kind_of, read_tensors
from pipeline.domain.errors import ModelError

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "bn.num_batches_tracked": torch.tensor(7)}
NAMES: dict[str, tuple[int, ...]] = {"conv.weight": (2, 3), "bn.num_batches_tracked": ()}


class Malicious:
    """Pickles as a call of the shell."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("old", [False, True])
def test_a_malicious_pickle_never_executes(tmp_path: Path, old: bool) -> None:
    """A pickle that asks for the shell is refused with the command that converts, and the shell is never called."""
    path, mark = tmp_path / "evil.pth", tmp_path / "owned"
    torch.save({**STATE, "x": Malicious(mark)}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ModelError, match=r"more than tensors.*system.*facemint models convert .*evil.pth") as caught:
        read_tensors(path, str(path))
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_training_checkpoint_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Bookkeeping beside the tensors, such as argparse's, names itself and the command."""
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": STATE, "args": argparse.Namespace(lr=0.1)}, path)
    with pytest.raises(ModelError, match=r"argparse.Namespace.*facemint models convert"):
        read_tensors(path, str(path))


@pytest.mark.parametrize("form", ["safetensors", "zip", "pickle"])
@pytest.mark.parametrize("names", [None, NAMES])
def test_every_form_gives_the_same_tensors(tmp_path: Path, form: str, names: Any) -> None:
    """Safetensors, torch's archive and its old pickle are told apart by their bytes, whatever the file is called."""
    path = tmp_path / "weights.bin"
    if form == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=form == "zip")
    assert kind_of(path) == {"zip": "torch"}.get(form, form)
    found = read_tensors(path, "w", names)
    assert set(found) == set(STATE)
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)
    assert describe(path, "w")["tensors"] == 2


@pytest.mark.parametrize("form", ["safetensors", "zip", "pickle"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_one_line(tmp_path: Path, form: str, share: float) -> None:
    """Wherever it was cut, the message says that it is damaged and what to do."""
    path = tmp_path / "cut"
    big = {"a.weight": torch.ones(40, 50), "b.weight": torch.ones(50)}
    if form == "safetensors":
        save_file(big, path)
    else:
        torch.save(big, path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match=r"cut short.*(fetch it again|digest)") as caught:
        read_tensors(path, "cut")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of weights"),
        (b"\x89PNG\r\n\x1a\n and so on", "no file of weights"),
        (b"\x08\x07\x12\x0bfacemint:onnx", "no file of weights"),
        (b"PK\x03\x04 a zip of something else", "no state dict"),
        ((2**62).to_bytes(8, "little") + b"{}", "no file of weights"),
        ((30).to_bytes(8, "little") + b'{"a": {"dtype": "F32"}}       ', "damaged"),
    ],
)
def test_what_is_not_a_model_at_all_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Pictures, other networks, archives and nonsense are refused without a traceback."""
    path = tmp_path / "thing"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_tensors(path, "thing")


@given(st.binary(max_size=200))
def test_no_bytes_end_in_another_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever a file holds, reading it ends in tensors or in a ModelError."""
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        read_tensors(path, "any")


def test_groups_that_hold_each_other_come_to_an_end(tmp_path: Path) -> None:
    """Neither a group inside itself nor one that doubles at every step keeps the reader busy for ever."""
    inner: dict[str, Any] = {}
    for _ in range(60):
        inner = {"a": inner, "b": inner}
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"": deep}
    inner |= {"self": inner, "deep": deep, "w": torch.ones(2)}
    torch.save(inner, tmp_path / "knot.pth")
    found = read_tensors(tmp_path / "knot.pth", "knot", {"w": (2,)})
    assert torch.equal(found["w"], torch.ones(2))


def test_a_model_without_tensors_says_so(tmp_path: Path) -> None:
    """A pickle of numbers alone holds nothing to load."""
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ModelError, match="holds no tensors"):
        read_tensors(tmp_path / "empty.pth", "empty")


@pytest.mark.parametrize(
    "stored",
    [
        "conv.weight",
        "module.conv.weight",
        "model_vec2face.conv.weight",
        "state_dict.features.module.conv.weight",
        "text_model.conv.weight",
    ],
)
def test_names_are_found_in_whatever_group_they_are(stored: str) -> None:
    """One network in a group, or in groups of groups, is found; so is a text model with its old prefix."""
    assert resolved({stored: (2, 3), "epoch.loss": (1,)}, {"conv.weight": (2, 3)}, "w") == {"conv.weight": stored}


def test_text_models_and_attention_of_old_tools_are_found_by_their_new_names() -> None:
    """`text_model.` with or without, `query` for `to_q`, positions stored or left out."""
    old = {
        "text_model.final_layer_norm.weight": (4,),
        "encoder.mid_block.attentions.0.query.weight": (4, 4),
        "encoder.mid_block.attentions.0.proj_attn.bias": (4,),
    }
    asked = {
        "final_layer_norm.weight": (4,),
        "encoder.mid_block.attentions.0.to_q.weight": (4, 4),
        "encoder.mid_block.attentions.0.to_out.0.bias": (4,),
        "embeddings.position_ids": (1, 7),
    }
    found = resolved(old, asked, "w")
    assert found == {**dict(zip(list(asked)[:3], old, strict=True)), "embeddings.position_ids": None}
    back = resolved({name: shape for name, shape in asked.items() if "ids" not in name}, old, "w")
    assert list(back) == list(old)
    assert all(plain(name) == plain(str(mine)) for name, mine in back.items())


def test_positions_that_were_left_out_are_made(tmp_path: Path) -> None:
    """A file of a tool that stores no positions gives them all the same: they follow from their shape."""
    save_file({"a.weight": torch.ones(1)}, tmp_path / "w")
    found = read_tensors(tmp_path / "w", "w", {"a.weight": (1,), "position_ids": (1, 3)})
    assert found["position_ids"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("have", "wanted", "message"),
    [
        ({"a.weight": (2,)}, {"a.weight": (3,)}, r"a.weight has shape \(2,\), this network's has \(3,\)"),
        ({"a.weight": (2,)}, {"a.weight": (2,), "b.weight": (2,)}, "lacks 1 of the 2 tensors.*b.weight"),
        ({"x.a.weight": (2,), "y.a.weight": (2,)}, {"a.weight": (2,)}, r"several networks.*x, y.*--section x"),
        ({"l.0.w": (2,), "l.1.w": (2,)}, {"l.0.w": (2,)}, "l.1.w for one.*larger"),
    ],
)
def test_weights_of_another_network_are_refused(have: Any, wanted: Any, message: str) -> None:
    """Another shape, a missing tensor, two that fit, more layers than asked for: each is said, none is loaded."""
    with pytest.raises(ModelError, match=message):
        resolved(have, wanted, "w")


def test_what_is_not_asked_for_is_left_out() -> None:
    """Heads, optimisers and dead weights beside the network do not matter."""
    have = {"a.weight": (2,), "head.weight": (9, 2), "optimizer.state.0.step": ()}
    assert resolved(have, {"a.weight": (2,)}, "w") == {"a.weight": "a.weight"}
