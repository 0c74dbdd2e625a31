"""The image and the compose file, as far as they can be looked at without a builder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"
DOCKERFILE = (INFRA / "Dockerfile").read_text()


def stages() -> dict[str, str]:
    """Return the stages of the Dockerfile by name, each with its text."""
    parts = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {match[1]: part for part in parts if (match := re.match(r"\S+ AS (\S+)", part))}


def parents(name: str) -> list[str]:
    """Return a stage and what it is built on, by name."""
    made = stages()
    chain = [name]
    while (parent := made[chain[-1]].split()[0]) in made:
        chain.append(parent)
    return chain


@pytest.mark.parametrize("target", ["cpu", "cuda", "cuda-baked"])
def test_finished_images_run_as_nobody_special(target: str) -> None:
    """Every finished target is built on the stage that leaves root, and none goes back."""
    chain = "".join(stages()[name] for name in reversed(parents(target)))

    assert re.findall(r"^USER (\S+)", chain, flags=re.MULTILINE) == ["1000:1000"]


def test_versions_are_the_tested_ones() -> None:
    """Whatever pip installs is held to constraints.txt, torch included."""
    made = stages()
    for name in ("installed-cpu", "installed-cuda"):
        installs = re.findall(r"pip install (.+?)(?=&&|\Z)", made[name].replace("\\\n", ""), flags=re.DOTALL)
        assert installs
        assert all("-c constraints.txt" in words or "torch==$(sed" in words for words in installs), installs


def test_weights_come_along_only_when_asked_for() -> None:
    """Weights reach one target alone, which nobody builds by leaving a name out by mistake elsewhere."""
    holding = [name for name, text in stages().items() if re.search(r"^COPY --from=weights", text, flags=re.MULTILINE)]

    assert holding == ["cuda-baked"]
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not [line for line in ignored if line.startswith("!") and "shared" in line]


def test_everything_that_is_copied_exists() -> None:
    """The files that the image is made of are there, and reach the builder."""
    copied = re.search(r"^COPY (pyproject.+) \./$", DOCKERFILE, flags=re.MULTILINE)
    assert copied
    allowed = {
        line[1:] for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    folders = re.findall(r"^COPY (\w+) \w+$", DOCKERFILE, flags=re.MULTILINE)

    for name in (*copied[1].split(), *folders):
        assert (INFRA.parent / name).exists(), name
        assert name in allowed, name


def test_compose_is_reachable_from_this_machine_alone() -> None:
    """Ports of the laptop's stand-in are bound to loopback, and services wait for what they need."""
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= services.keys(), name
    assert all(":latest" not in s["image"] for s in services.values())
