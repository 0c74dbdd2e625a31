"""The review queue as a table: what is written comes back, and what is no decision is refused in one line."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.errors import UserError
from pipeline.domain.review import COLUMNS, Line, decisions_of, nearest, written

HEAD = ",".join(COLUMNS)
NUMBERS = st.integers(0, 10**9)


def line(kind: str = "face", value: float = 0.4, decision: str = "", number: int = 1) -> Line:
    """Return a line about a face, or about a pair."""
    other = f"2.{number}" if kind == "pair" else ""
    return Line(kind, f"{number}.0", other, "ab" * 32, "crawl\nsomebody", "kept", value, 0.4, decision)


@given(
    faces=st.dictionaries(st.tuples(NUMBERS, NUMBERS), st.sampled_from(["keep", "refuse", "", " KEEP "]), max_size=8),
    pairs=st.dictionaries(st.tuples(NUMBERS, NUMBERS), st.sampled_from(["same", "apart", ""]), max_size=8),
    label=st.text(st.characters(codec=None), max_size=20),
)
def test_what_is_written_comes_back(
    faces: dict[tuple[int, int], str], pairs: dict[tuple[int, int], str], label: str
) -> None:
    """Whatever labels hold, each word comes back with what it was about, and lines without a word decide nothing."""
    lines = [Line("face", f"{a}.{b}", "", "cd", label, "kept", 0.5, 0.4, word) for (a, b), word in faces.items()]
    lines += [Line("pair", f"{a}.0", f"{b}.1", "ef", label, "merged", 0.5, 0.4, w) for (a, b), w in pairs.items()]
    found = decisions_of(written(lines), "queue.csv")
    assert found.keep == {p: "cd" for p, w in faces.items() if w.strip().lower() == "keep"}
    assert found.refuse == {p: "cd" for p, w in faces.items() if w == "refuse"}
    assert found.same == {frozenset({(a, 0), (b, 1)}): "ef" for (a, b), w in pairs.items() if w == "same"}
    assert found.apart == {frozenset({(a, 0), (b, 1)}): "ef" for (a, b), w in pairs.items() if w == "apart"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "first line is not kind,id"),
        (b"kind;id\n", "first line is not kind,id"),
        (b"\x89PNG\r\n\x1a\n\xff\xd8", "not a table of decisions"),
        (HEAD.encode() + b'\nface,"1', "not a table of decisions"),
        (HEAD.encode() + b"\nface,1.0,,ab,x,kept,0.4,0.4,perhaps\n", "line 2: got 'perhaps'; of a face write keep"),
        (HEAD.encode() + b"\nface,1.0,,ab,x,kept,0.4,0.4,same\n", "line 2: got 'same'; of a face write keep"),
        (HEAD.encode() + b"\npair,1.0,1.1,ab,x,kept,0.4,0.4,keep\n", "line 2: got 'keep'; of a pair write same"),
        (HEAD.encode() + b"\nhand,1.0,,ab,x,kept,0.4,0.4,keep\n", "line 2: got 'hand'; a line of the queue"),
        (HEAD.encode() + b"\nface,1,,ab,x,kept,0.4,0.4,keep\n", "line 2: got '1'; ids are two numbers"),
        (HEAD.encode() + b"\n\nface,1.0,keep\n", "line 3: got 3 columns"),
        (HEAD.encode() + b"\npair,1.0,1.0,ab,x,kept,0.4,0.4,same\n", "line 2: got '1.0' twice"),
        (
            HEAD.encode() + b"\nface,1.0,,ab,x,kept,1,1,keep\nface,1.0,,ab,x,kept,1,1,refuse\n",
            "line 3: got 'refuse', and line 2 says 'keep' of the same",
        ),
    ],
)
def test_what_is_no_decision_is_refused(body: bytes, said: str) -> None:
    """Whatever is not the queue, or says what decides nothing, is one line that names the place."""
    with pytest.raises(UserError, match=r"given\.csv") as refused:
        decisions_of(body, "given.csv")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_spreadsheet_may_have_touched_it() -> None:
    """A byte order mark, Windows line ends, empty lines and capitals change nothing."""
    plain = written([line(decision="keep")])
    touched = b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n").replace(b"keep", b" Keep") + b"\r\n,,,,,,,,\r\n"
    assert decisions_of(touched, "x") == decisions_of(plain, "x")


@pytest.mark.parametrize("label", ["=cmd()", "+1", "-1", "@x", " =x"])
def test_a_label_is_no_formula(label: str) -> None:
    """A label that a spreadsheet would compute is written as text."""
    told = Line("face", "1.0", "", "ab", label, "kept", 0.5, 0.4)
    assert next(csv.DictReader(io.StringIO(written([told]).decode())))["label"] == f"'{label}"


def test_the_nearest_are_listed_and_all_that_are_decided() -> None:
    """Of each kind the nearest to its threshold come, and before them every line that somebody decided about."""
    lines = [line(value=0.4 + n / 100, number=n) for n in range(9)]
    lines += [line("pair", 0.1, "same", number=n) for n in range(4)]
    found = nearest([*lines, line(value=0.9, decision="keep", number=99)], 3)
    assert [one.id for one in found] == ["99.0", "0.0", "1.0", "0.0", "1.0", "2.0", "3.0"]


def test_the_log_names_nobody() -> None:
    """What is kept of decisions are words and numbers: no label, and no digest of a picture."""
    log = decisions_of(written([line(decision="keep"), line("pair", decision="apart")]), "x").log()
    assert log == b"kind,id,other,decision\nface,1.0,,keep\npair,1.0,2.1,apart\n"
