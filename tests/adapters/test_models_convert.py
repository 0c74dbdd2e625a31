"""Converting pickles: tensors come through whole, what else they ask for is refused, and the fences hold."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.adapters.models.convert_child import RefusedError, convert
from pipeline.adapters.models.converting import convert_file
from pipeline.adapters.models.reading import kind_of, read_tensors
from pipeline.domain.errors import ModelError, OutputError

STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3).t(),
    "b.weight": torch.ones(3).bfloat16(),
    "n": torch.tensor(5),
}


class Calls:
    """Pickles as a call of something."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.what = what, arguments

    def __reduce__(self) -> Any:
        return self.what


def converted(tmp_path: Path, content: Any, *, section: str = "", ignore: tuple[str, ...] = (), **how: Any) -> Any:
    """Return what the child's work answers of a file with this content, done in this process."""
    source = tmp_path / "in.pth"
    torch.save(content, source, **how)
    return convert({"source": str(source), "target": str(tmp_path / "out"), "section": section, "ignore": ignore})


@pytest.mark.parametrize("old", [False, True])
def test_tensors_of_a_training_checkpoint_come_through(tmp_path: Path, old: bool) -> None:
    """Names, shapes, precision and values are kept, bookkeeping is left out and listed, the result loads safely."""
    checkpoint = {"model": STATE, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "epoch": 3}
    answer = converted(tmp_path, checkpoint, _use_new_zipfile_serialization=not old)
    assert "argparse.Namespace" in answer["left_out"]
    assert answer["tensors"] == 3
    assert kind_of(tmp_path / "out") == "safetensors"
    found = read_tensors(tmp_path / "out", "out")
    assert set(found) == {f"model.{name}" for name in STATE}
    for name, value in STATE.items():
        assert found[f"model.{name}"].dtype == value.dtype
        assert torch.equal(found[f"model.{name}"], value)


def test_one_section_is_taken_under_its_own_names(tmp_path: Path) -> None:
    """`section` takes a group's name off; one that is not there says which are."""
    content = {"model": {"net": STATE}, "ema": {"net": STATE}, "args": 1}
    converted(tmp_path, content, section="ema.net")
    assert set(read_tensors(tmp_path / "out", "out")) == set(STATE)
    assert converted(tmp_path, content, section="other") == {"empty": ["args", "ema", "model"]}
    assert converted(tmp_path, {"epoch": 3}) == {"empty": ["epoch"]}


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ((os.system, "touch {mark}"), r"\w+\.system"),
        ((eval, "__import__('pathlib').Path('{mark}').touch()"), r"\w+\.eval"),
        ((exec, "open('{mark}', 'w')"), r"\w+\.exec"),
        ((subprocess.check_call, "{mark}"), r"\w+\.check_call"),
        ((Path.touch, "{mark}"), r"\w+\.getattr"),
        ((torch.load, "{mark}"), r"torch\.serialization\.load"),
        ((torch.hub.load, "{mark}"), r"torch\.hub\.load"),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_nothing_of_a_malicious_pickle_is_run(tmp_path: Path, call: Any, named: str, old: bool) -> None:
    """Whatever it asks for by name ends the conversion, names itself, and leaves neither mark nor file."""
    mark = tmp_path / "owned"
    evil = Calls(call[0], call[1].replace("{mark}", str(mark)))
    with pytest.raises(RefusedError, match=named):
        converted(tmp_path, {**STATE, "x": evil}, _use_new_zipfile_serialization=not old)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


def test_unknown_bookkeeping_can_be_left_out_by_name(tmp_path: Path) -> None:
    """A class nobody knows here is refused by name; left out by that name it is never imported, and the rest comes."""
    content = {"net": torch.nn.Linear(2, 2), **STATE}
    with pytest.raises(RefusedError, match=r"torch.nn.modules.linear.Linear"):
        converted(tmp_path, content)
    answer = converted(tmp_path, content, ignore=("torch.nn.", "__builtin__.getattr"))
    assert answer["tensors"] == 3
    assert "torch.nn.modules.linear.Linear" in answer["left_out"]


def test_what_stands_for_bookkeeping_does_nothing(tmp_path: Path) -> None:
    """Names on the list of bookkeeping are not imported either: a call of one is swallowed with its arguments."""
    mark = tmp_path / "owned"
    answer = converted(tmp_path, {**STATE, "x": Calls(np.savetxt, str(mark), [1.0]), "y": Path("here")})
    assert {"numpy.savetxt", "pathlib.PosixPath"} <= set(answer["left_out"])
    assert answer["tensors"] == 3
    assert not mark.exists()


def test_the_child_converts_and_the_parent_tells(tmp_path: Path) -> None:
    """Through the process: a checkpoint becomes one file and nothing beside it, a malicious one is one line."""
    good, evil, mark = tmp_path / "good.pth", tmp_path / "evil.pth", tmp_path / "owned"
    torch.save({"model": STATE, "args": argparse.Namespace(lr=0.1)}, good)
    torch.save({**STATE, "x": Calls(os.system, f"touch {mark}")}, evil)
    answer = convert_file(good, tmp_path / "out.safetensors", section="model")
    assert (answer["tensors"], answer["left_out"]) == (3, ["argparse.Namespace"])
    assert set(read_tensors(tmp_path / "out.safetensors", "out")) == set(STATE)
    with pytest.raises(ModelError, match=r"asks for posix.system.*nothing of it was run.*delete it") as caught:
        convert_file(evil, tmp_path / "no.safetensors")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth", "good.pth", "out.safetensors"]


def test_what_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    """Missing, not a pickle, safe already, cut short, and a target that is taken or has no folder."""
    torch.save(STATE, tmp_path / "good.pth")
    save_file({"a": torch.ones(2)}, tmp_path / "safe.safetensors")
    (tmp_path / "picture").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:700])
    for name, out, kind, message in (
        ("none.pth", "o", ModelError, "no such file"),
        ("picture", "o", ModelError, "takes nothing else"),
        ("safe.safetensors", "o", ModelError, "safetensors already"),
        ("cut.pth", "o", ModelError, "cannot be converted"),
        ("good.pth", "safe.safetensors", OutputError, "there already"),
        ("good.pth", "no/folder/o", OutputError, "folder"),
    ):
        with pytest.raises(kind, match=message) as caught:
            convert_file(tmp_path / name, tmp_path / out)
        assert "\n" not in str(caught.value), name
    assert not (tmp_path / "o").exists()


FENCED = """
import os, socket, subprocess, sys
from pipeline.adapters.models.child_limits import alone_on_the_network, limit_resources, watch
alone = alone_on_the_network()
limit_resources(1 << 20)
watch(sys.argv[1])
open(sys.argv[1], "w").close()
tries = {
    "system": lambda: os.system("true"),
    "spawn": lambda: subprocess.run(["true"]),
    "fork": os.fork,
    "socket": lambda: socket.create_connection(("127.0.0.1", 9)),
    "write": lambda: open(sys.argv[1] + "2", "w"),
    "descriptor": lambda: os.open(sys.argv[1] + "2", os.O_WRONLY | os.O_CREAT),
    "remove": lambda: os.remove(sys.argv[1]),
    "memory": lambda: bytearray(3 << 30),
    "size": lambda: open(sys.argv[1], "wb").write(bytes(80 << 20)),
}
for name, attempt in tries.items():
    try:
        attempt()
        print(name, "went through")
    except (PermissionError, MemoryError, OSError) as error:
        print(name, type(error).__name__)
"""


def test_the_fences_hold(tmp_path: Path, root: Path) -> None:
    """Even for code that runs in the child: no process, no socket, no other file, no more memory than needed."""
    target = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FENCED, str(target)], cwd=root, capture_output=True, text=True, check=True
    )
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    refused = dict.fromkeys(("system", "spawn", "fork", "socket", "write", "descriptor", "remove"), "PermissionError")
    assert told == refused | {"memory": "MemoryError", "size": "OSError"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
