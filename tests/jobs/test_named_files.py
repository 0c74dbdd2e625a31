"""JSON files that recipes name: what stands in their place is told in one line, whoever reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.wiring.named_files import LARGEST_bytes, read_named
from pipeline.domain.errors import RecipeError


def test_what_a_file_holds_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, words and lists as JSON has them, from a path or from the home folder."""
    (tmp_path / "x.json").write_bytes('{"a": [1, -2.5e-3, true, null, "ä"]}'.encode())
    monkeypatch.setenv("HOME", str(tmp_path))
    content = {"a": [1, -0.0025, True, None, "ä"]}
    assert read_named(str(tmp_path / "x.json"), "r", "quantiles") == content
    assert read_named("~/x.json", "r", "quantiles") == content


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b'{"a": NaN}', "is not JSON, or holds NaN or Infinity"),
        (b"[-Infinity]", "is not JSON, or holds NaN or Infinity"),
        (b"[1e999]", "is not JSON, or holds NaN or Infinity"),
        (b" " * LARGEST_bytes + b"1", "has more than the 16,777,216 bytes that are read"),
    ],
    ids=["torn", "empty", "not UTF-8", "too deep", "NaN", "Infinity", "too large a number", "too large"],
)
def test_what_is_no_json_is_one_line(tmp_path: Path, data: bytes, told: str) -> None:
    """Torn, hostile, too large, or with what is no number: key, file, what it is, and what to name instead."""
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        read_named(str(path), "recipe.yaml: judge.calibration", "calibrate")
    said = str(caught.value)
    assert said.startswith(f"recipe.yaml: judge.calibration: {path} {told}")
    assert said.endswith("; name a file of facemint calibrate")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.json", "No such file or directory"),
        (".", "Is a directory"),
        ("x.json/y.json", "Not a directory"),
        ("~nobody-of-this-name/x.json", "home directory"),
        ("a\0b", "null byte"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str) -> None:
    """Missing, a folder, below a file, in the home of nobody, no path at all: the system's reason is told."""
    monkeypatch.chdir(tmp_path)
    Path("x.json").write_text("1")
    with pytest.raises(RecipeError, match=rf"^r: .* cannot be read \(.*{told}.*\); name a file of facemint quantiles$"):
        read_named(name, "r", "quantiles")
