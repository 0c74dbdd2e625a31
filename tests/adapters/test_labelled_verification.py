"""Verification sets: read as plain data, and hostile pickles refused without running or allocating anything."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.adapters.labelled.pickled import RefusedPickleError, plain_data
from pipeline.adapters.labelled.verification import VerificationPairs
from pipeline.domain.errors import UserError

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=20,
)


def jpeg(seed: int) -> bytes:
    """Return the JPEG of a made-up 32-pixel crop."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


@given(value=plain, protocol=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_plain_data_comes_back_as_it_was(value: Any, protocol: int) -> None:
    """Lists, tuples, bytes, text and numbers of every protocol read as the standard reader reads them."""
    assert plain_data(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("name", ["bool", "uint8", "int64", "float32", ">i4"])
def test_plain_arrays_and_scalars_come_back(protocol: int, name: str) -> None:
    """Arrays in either order, and numpy's scalars, read as what they were."""
    array = np.arange(12).reshape(3, 4).astype(name)
    for one in (array, np.asfortranarray(array), array[0]):
        found = plain_data(pickle.dumps([one, one], protocol))
        for copy in found:
            np.testing.assert_array_equal(copy, one)
    assert plain_data(pickle.dumps(array[2, 3], protocol)) == array[2, 3].item()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("how", ["lists", "arrays", "numpy bools"])
def test_a_verification_set_gives_its_pairs(tmp_path: Path, protocol: int, how: str) -> None:
    """Pictures as bytes or uint8 arrays, truths as bool or numpy's, under every protocol: pairs in their order."""
    pictures = [jpeg(i) for i in range(6)]
    held: list[Any] = [np.frombuffer(p, np.uint8) for p in pictures] if how == "arrays" else list(pictures)
    same: Any = np.array([True, False, True]) if how == "arrays" else [True, False, True]
    if how == "numpy bools":
        same = [np.bool_(s) for s in same]
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((held, same), protocol))

    pairs = list(VerificationPairs(path, side_px=32))

    assert [truth for _, _, truth in pairs] == [True, False, True]
    assert len(VerificationPairs(path, side_px=32)) == 3
    for number, (first, second, _) in enumerate(pairs):
        for place, face in ((2 * number, first), (2 * number + 1, second)):
            np.testing.assert_array_equal(face, np.asarray(Image.open(io.BytesIO(pictures[place]))))


def test_a_set_that_python_2_wrote_is_read() -> None:
    """Byte strings of Python 2, which InsightFace's own files hold, read as bytes."""
    written = b"\x80\x02]q\x00(U\x03\xff\xd8\x00q\x01T\x04\x00\x00\x00\x00\x01\xfe\xffe]q\x02(\x88\x89e\x86."
    assert plain_data(written) == ([b"\xff\xd8\x00", b"\x00\x01\xfe\xff"], [True, False])


class Runs:
    """Runs a command when the standard reader reads it."""

    def __init__(self, *call: Any) -> None:
        """Keep what is called."""
        self.call = call

    def __reduce__(self) -> Any:
        """Return the call."""
        return self.call[0], self.call[1:]


HOSTILE = {
    "command": pickle.dumps(Runs(os.system, "touch /tmp/facemint-was-here")),
    "eval": pickle.dumps(Runs(eval, "1 + 1")),
    "subprocess": pickle.dumps(Runs(subprocess.check_output, ["true"])),
    "eval, protocol 0": b"c__builtin__\neval\n(S'1'\ntR.",
    "instance": b"(S'x'\nios\nsystem\n.",
    "class": pickle.dumps(OrderedDict(a=1)),
    "fraction": pickle.dumps(Fraction(1, 3)),
    "mapping": pickle.dumps({"a": 1}),
    "object array": pickle.dumps(np.array([object, 1], object)),
    "structured array": pickle.dumps(np.zeros(2, [("a", "i4")])),
    "text array": pickle.dumps(np.array(["a"])),
    "masked array": pickle.dumps(np.ma.masked_array([1], [True])),
    "matrix file": pickle.dumps(Runs(np.load, "/etc/passwd")),
    "persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "extension": b"\x80\x02\x82\x01.",
    "name as a value": b"cnumpy\nndarray\n(I5\ntR.",
    "dtype of objects": b"cnumpy\ndtype\n(S'O8'\ntR.",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_refused_and_nothing_runs(tmp_path: Path, kind: str) -> None:
    """Anything but plain data is refused with the reason; the error is one line that names the file."""
    mark = Path("/tmp/facemint-was-here")  # noqa: S108 - what the pickle would leave behind
    mark.unlink(missing_ok=True)
    path = tmp_path / "set.bin"
    path.write_bytes(HOSTILE[kind])

    with pytest.raises(UserError, match=r"refused|holds no") as caught:
        VerificationPairs(path, side_px=112)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("kind", "name"), [("command", "posix.system"), ("eval", "builtins.eval"), ("fraction", "fractions.Fraction")]
)
def test_what_a_pickle_names_is_in_the_message(kind: str, name: str) -> None:
    """The global that it would have called is named."""
    with pytest.raises(RefusedPickleError, match=name):
        plain_data(HOSTILE[kind])


def _huge(opcode: bytes, length: bytes) -> bytes:
    return b"\x80\x04" + opcode + length + b"abc."


BOMBS = {
    "bytes of 2**60": _huge(b"\x8e", struct.pack("<Q", 2**60)),
    "bytes of 2**64 - 1": _huge(b"\x8e", struct.pack("<Q", 2**64 - 1)),
    "bytes of 4 GB": _huge(b"B", struct.pack("<I", 2**32 - 1)),
    "bytearray of 2**50": _huge(b"\x96", struct.pack("<Q", 2**50)),
    "text of 2**50": _huge(b"\x8d", struct.pack("<Q", 2**50)),
    "frame of 2**60": _huge(b"\x95", struct.pack("<Q", 2**60)),
    "number of 2 GB": _huge(b"\x8b", struct.pack("<I", 2**31 - 1)),
    "memo at 2**32": b"\x80\x02]r\xff\xff\xff\xff(j\xff\xff\xff\xffl.",
    "number of many digits": b"I" + b"9" * 5000 + b"\n.",
    "marks": b"(" * 20_000 + b".",
    "array of 2**40 in a byte": pickle.dumps(np.zeros(2**16, np.uint8)).replace(
        struct.pack("<I", 2**16)[:3], b"\xff\xff\xff", 1
    ),
    "lists in lists": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "nothing": b"",
    "cut": pickle.dumps([b"abc", True], 4)[:-3],
}


@pytest.mark.parametrize("kind", BOMBS)
def test_lengths_that_lie_allocate_nothing(kind: str) -> None:
    """A length beyond what the file holds, a far memo place or endless nesting costs little and ends in a refusal."""
    tracemalloc.start()
    try:
        value: Any = plain_data(BOMBS[kind])
    except RefusedPickleError:
        value = None
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 64 << 20
    if kind not in ("lists in lists", "memo at 2**32"):
        assert value is None
    # taken apart by hand: the interpreter's own way of dropping a deep list recurses
    while isinstance(value, list) and value:
        value = value.pop()


@given(noise=st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    """No bytes lead to another error than the refusal."""
    with contextlib.suppress(RefusedPickleError):
        plain_data(b"\x80\x04" + noise)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_altered_sets_are_read_or_refused(data: st.DataObject) -> None:
    """A flipped byte anywhere in a set is read as other data or refused, never anything else."""
    whole = bytearray(pickle.dumps(([b"ab", np.zeros(3, np.uint8)], [np.bool_(True)]), data.draw(st.integers(2, 5))))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RefusedPickleError):
        plain_data(bytes(whole))


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (([b"x", b"y"], [True, False]), "2 pictures for 2 pairs"),
        (([], []), "0 pictures for 0 pairs"),
        ((1, 2), "got int where a list"),
        (([1, 2], [True]), "got int where a picture"),
        (([b"x", b"y"], [7]), "true or false"),
        (([b"x", b"y"], ["yes"]), "true or false"),
        ([b"x"], "no \\(pictures, truths\\)"),
        ((b"x", b"y", b"z"), "no \\(pictures, truths\\)"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, held: Any, told: str) -> None:
    """Plain data that is no verification set says what was found."""
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(held))
    with pytest.raises(UserError, match=told):
        VerificationPairs(path, side_px=112)


def test_a_damaged_picture_is_named_by_its_place(tmp_path: Path) -> None:
    """Pictures are decoded strictly; the message says which one is damaged."""
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([jpeg(0), jpeg(1)[:-50]], [True])))
    with pytest.raises(UserError, match=r"picture 1: .*JPEG"):
        list(VerificationPairs(path, side_px=32))


def test_reading_imports_no_pickle() -> None:
    """The reader never touches the standard unpickler."""
    code = (
        "import sys; from pipeline.adapters.labelled import pickled; import pickle;"
        "pickle.loads = pickle.load = pickle.Unpickler = None;"
        "print(pickled.plain_data(b'\\x80\\x04]\\x94(K\\x01K\\x02e.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 2]"
