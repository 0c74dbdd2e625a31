"""Processes in which foreign bytes are read: what they see of their parent, and limits that they cannot raise."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.confining import command, ending, environment
from pipeline.adapters.models.converting import convert_file
from pipeline.domain.errors import ModelError

SECRETS = {"AWS_SECRET_ACCESS_KEY": "secret-1", "HF_TOKEN": "secret-2", "SOMEBODYS_OWN": "secret-3"}


def told_by(script: str, **options: Any) -> Any:
    """Return what a script prints as JSON, run in the environment of such a process."""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment(), capture_output=True, check=True, **options
    )
    return json.loads(ran.stdout)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put credentials, and one thing that everybody may see, into the environment."""
    for name, value in {**SECRETS, "LANG": "C.UTF-8"}.items():
        monkeypatch.setenv(name, value)


def test_the_environment_holds_what_python_starts_with(secrets: None) -> None:
    """No credential; words about the system; one thread for each numerical library; this package, from any folder."""
    seen = told_by("import json, os, pipeline; print(json.dumps(dict(os.environ)))", cwd="/")
    assert seen["LANG"] == "C.UTF-8"
    assert seen["OMP_NUM_THREADS"] == "1"
    assert not SECRETS.keys() & seen.keys()
    assert not any("secret" in value for value in seen.values())


def test_the_converter_sees_no_credentials(secrets: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles are read beside nobody's secrets, and modules of the working directory are not found there."""
    real, started = subprocess.run, list[list[str]]()

    def run(words: list[str], **options: Any) -> Any:
        started.append(words)
        script = "import json, os; print(json.dumps({'failed': ' '.join(f'{k}={v}' for k, v in os.environ.items())}))"
        return real([sys.executable, "-c", script], **options)

    source = tmp_path / "in.pth"
    source.write_bytes(b"\x80\x02}.")
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError, match=r"LANG=C.UTF-8") as caught:
        convert_file(source, tmp_path / "out")
    assert "secret" not in str(caught.value)
    assert not any(name in str(caught.value) for name in SECRETS)
    assert started[0][:-1] == command("pipeline.adapters.models.convert_child", {})[:-1]
    assert "-P" in started[0]


LIMITED = """
import json, resource
from pipeline.adapters.confining import limit
for most in (5000, 9000):
    limit(resource.RLIMIT_FSIZE, most)
    limit(resource.RLIMIT_CPU, most, for_good=False)
print(json.dumps([resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_CPU)]))
"""


def test_a_limit_is_never_raised_again() -> None:
    """What is set for good stays, whoever asks for more later; processor time, allowed anew each time, is not."""
    before = resource.getrlimit(resource.RLIMIT_CPU)[1]
    assert told_by(LIMITED) == [[5000, 5000], [9000, before]]


def test_a_limit_stays_within_that_of_who_started_the_process() -> None:
    """Under hard limits of 4000 neither kind of limit allows more."""

    def strict() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        resource.setrlimit(resource.RLIMIT_CPU, (4000, 4000))

    assert told_by(LIMITED, preexec_fn=strict) == [[4000, 4000], [4000, 4000]]


ANSWERING = """
import os
from pipeline.adapters.confining import answers
out = answers()
os.write(1, b"a library chats")
print("and so does Python", flush=True)
out.write(b"[1]")
out.flush()
"""


def test_answers_are_alone_on_standard_output() -> None:
    """What anything else prints, by whatever way, does not come between them."""
    assert told_by(ANSWERING) == [1]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
        ("os.kill(os.getpid(), 40)", "signal 40"),
    ],
)
def test_an_ending_is_told_in_words(script: str, said: str) -> None:
    """A signal by its name where it has one, else as a status by its number."""
    done = subprocess.run([sys.executable, "-c", f"import os; {script}"], check=False)
    assert ending(done.returncode) == said
