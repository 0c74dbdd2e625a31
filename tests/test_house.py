"""The house rules that no other tool checks: sizes, docstrings, the README's tree, contracts, a light command line."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pipeline", "filters", "jobs")
MAX_LINES = 400
MAX_TEST_LINES = 600
"""Tests may be longer: tables and contract suites are read by entry, not from the top."""
LONGER: dict[str, str] = {
    # path: why it may be longer than MAX_LINES
}
HEAVY = ("datasets", "diffusers", "numpy", "pyarrow", "ray", "scipy", "torch")
"""What `facemint --help` must not import: together they cost several seconds."""
TREE_LINE = re.compile(r"^(?P<path>(?:pipeline|filters|jobs)/\S*)\s{2,}\S")


def modules(*rooms: str) -> list[Path]:
    """Return every Python file below these folders, sorted."""
    return sorted(p for room in rooms for p in (ROOT / room).rglob("*.py") if "__pycache__" not in p.parts)


def name_of(path: Path) -> str:
    """Return a file's path below the root, with `/`."""
    return path.relative_to(ROOT).as_posix()


def limit(name: str) -> int:
    """Return how many lines this file may have."""
    return MAX_TEST_LINES if name.startswith("tests/") else MAX_LINES


def tree_of(readme: str) -> set[str]:
    """Return the paths that a README's fenced blocks list as `path  description`."""
    fenced = [block for n, block in enumerate(readme.split("```")) if n % 2 == 1]
    found = (TREE_LINE.match(line) for block in fenced for line in block.splitlines())
    return {match["path"].rstrip("/") for match in found if match}


def folders() -> set[str]:
    """Return what a README's tree may name: every file and every folder of the rooms."""
    return {
        name_of(path)
        for room in ROOMS
        for path in (ROOT / room, *(ROOT / room).rglob("*"))
        if "__pycache__" not in path.parts and path.name != "__init__.py"
    }


def unlisted(tree: set[str]) -> list[str]:
    """Return the modules of the top two levels that are neither listed nor inside a listed folder below the top."""
    top_two = [p for p in folders() if p.endswith(".py") and p.count("/") <= 2]
    deep = {entry for entry in tree if "/" in entry and not entry.endswith(".py")}
    return sorted(p for p in top_two if p not in tree and p.rpartition("/")[0] not in deep)


def test_files_are_short() -> None:
    """No file is longer than 400 lines (600 for tests) unless it is on the list with its reason."""
    lines = {name_of(p): len(p.read_text("utf-8").splitlines()) for p in modules(*ROOMS, "tests")}
    long = {name: n for name, n in lines.items() if n > limit(name) and name not in LONGER}

    assert long == {}, "divide these files"


def test_list_of_longer_files_is_current() -> None:
    """Every file on the list of longer files exists and is still longer than the limit."""
    stale = [n for n in LONGER if not (ROOT / n).exists() or len((ROOT / n).read_text().splitlines()) <= limit(n)]

    assert stale == []


def test_every_module_says_what_it_is_for() -> None:
    """Every module opens with a docstring."""
    bare = [name_of(p) for p in modules(*ROOMS, "tests") if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]

    assert bare == []


def test_every_test_states_its_behaviour() -> None:
    """Every test function has a docstring whose first paragraph is a sentence."""
    bare = []
    for path in modules("tests"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                first = (ast.get_docstring(node) or "").split("\n\n")[0]
                if not first.endswith("."):
                    bare.append(f"{name_of(path)}:{node.lineno} {node.name}")

    assert bare == []


def test_readme_tree_matches_the_folders() -> None:
    """The README's file tree names what exists, and leaves out no module of the top two levels."""
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not written yet")
    tree = tree_of(readme.read_text("utf-8"))

    assert tree, "README.md has no fenced block with lines `path  description`"
    assert sorted(tree - folders()) == [], "listed in README.md and not there"
    assert unlisted(tree) == [], "there and not listed in README.md"


def test_tree_reader_sees_what_is_missing_and_what_is_extra() -> None:
    """The tree reader takes fenced lines only, and a tree without a module is seen to lack it."""
    text = "pipeline/prose.py  no\n```\npipeline/domain/rng.py   randomness\nfilters/   judgements\n```\n"
    tree = tree_of(text)

    assert tree == {"pipeline/domain/rng.py", "filters"}
    assert "filters/sharpness.py" in unlisted(tree)
    assert "pipeline/domain/space.py" in unlisted(tree)
    assert "pipeline/domain/rng.py" not in unlisted(tree)
    assert "pipeline/domain/space.py" not in unlisted({"pipeline/domain"})


def test_import_contracts_hold() -> None:
    """Every import contract of pyproject.toml is kept."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    """`facemint --help` answers without numpy, torch, Ray or any other slow import."""
    code = (
        "import sys\n"
        "from jobs.cli import main\n"
        "sys.argv = ['facemint', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code, ended.code\n"
        f"print('HEAVY', *sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ}
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "generate" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"], "imported by --help: " + done.stdout.splitlines()[-1]
