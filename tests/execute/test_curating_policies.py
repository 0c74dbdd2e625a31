"""What a curation does of its own accord: pictures that say a model made them, and faces that look like minors."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from filters import apparent_minor
from jobs.wiring import curating
from pipeline.adapters.codec import JpegCodec, source_type
from pipeline.adapters.measures.fairface import FairFace
from pipeline.adapters.onnx.genderage import GenderAge
from pipeline.adapters.phantom.attributes import PhantomAttributes
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import RecipeError
from pipeline.domain.intake import says_ai_made
from tests.crawls import crawl, crawl_recipe, crawled, gather, outcomes, picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a crawl in which two pictures of one person say of themselves that a model made them."""
    root = crawl(tmp_path / "crawl", {f"p{n:02d}": range(4) for n in range(4)})
    for image in (7, 8):
        (root / "p01" / f"made-{image}.jpg").write_bytes(JpegCodec().encode(picture(1, image)))
    return root


def decoding(root: Path, ai_made: str) -> dict[str, Any]:
    """Return the section of a recipe that says what becomes of such pictures."""
    return {**crawl_recipe(root)["curate"], "decoding": {"ai_made": ai_made}}


def sidecars(store: MemoryStore) -> list[tuple[dict[str, Any], bytes]]:
    """Return the JSON beside every published image, and the image."""
    out = []
    for path in store.list("segments/"):
        if path.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(store.get(path))) as tar:
                held = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
            out += [(json.loads(d), held[n.replace(".json", ".jpg")]) for n, d in held.items() if n.endswith(".json")]
    return out


def test_ai_made_pictures_are_marked(root: Path) -> None:
    """They are published, each says so itself and in its words, and the version says how many there are."""
    store = MemoryStore()
    counts = gather(crawled(root, curate=decoding(root, "mark")), store).manifest.counts
    assert counts["images_ai_made"] == 2
    assert counts["inputs"]["kept"] == 18
    told = sidecars(store)
    made = [(words, jpeg) for words, jpeg in told if "marks" in words["sourced"]]
    assert len(told) == 18
    assert [words["sourced"]["marks"] for words, _ in made] == ["iptc:trainedAlgorithmicMedia"] * 2
    assert {source_type(jpeg) for _, jpeg in made} == {
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    }
    assert all(source_type(jpeg) is None for words, jpeg in told if "marks" not in words["sourced"])


def test_ai_made_pictures_are_refused(root: Path) -> None:
    """Where the recipe asks for it they are refused with their reason, and nobody else is."""
    store = MemoryStore()
    counts = gather(crawled(root, curate=decoding(root, "refuse")), store).manifest.counts
    assert counts["images_ai_made"] == 0
    assert counts["inputs"]["kept"] == 16
    assert counts["inputs"]["reasons"] == {"decode": {"marked_ai_made": 2}}
    assert outcomes(store)["p01/made-7.jpg"] == (None, "marked_ai_made")


@pytest.mark.parametrize(
    ("marks", "made"),
    [
        ((), False),
        (("c2pa",), False),
        (("iptc:digitalCapture",), False),
        (("iptc:algorithmicallyEnhanced",), False),
        (("iptc:trainedAlgorithmicMedia", "c2pa"), True),
        (("iptc:compositeWithTrainedAlgorithmicMedia",), True),
        (("iptc:compositeSynthetic",), True),
        (("iptc:algorithmicMedia",), True),
    ],
)
def test_what_counts_as_made_by_a_model(marks: tuple[str, ...], made: bool) -> None:
    """The terms of IPTC that mean so do; an enhancement, or a credential of whatever kind, does not."""
    assert says_ai_made(marks) is made


@pytest.mark.parametrize("measure", [FairFace, GenderAge, PhantomAttributes])
def test_minors_are_to_be_refused_wherever_an_age_is_estimated(measure: Any, root: Path) -> None:
    """Each shipped estimate of age is known as one; the message names a filter that reads this very estimate."""
    recipe = crawled(root)
    with pytest.raises(RecipeError, match="look like minors") as refused:
        curating._check_minors(recipe, "r.yaml", "refuse", tuple(measure.names))
    found = re.search(r"`- (\{.*?\})`", str(refused.value))
    assert found is not None
    options = apparent_minor.Options.model_validate(yaml.safe_load(found[1]))
    read = options.years or f"{options.age_group}="
    assert any(name.startswith(read) for name in measure.names)
    curating._check_minors(recipe, "r.yaml", "keep", tuple(measure.names))
    judged = recipe.model_copy(update={"filters": (options,)})
    curating._check_minors(judged, "r.yaml", "refuse", tuple(measure.names))


def test_minors_are_refused_as_images_are_written(root: Path) -> None:
    """The filter judges every face before it is stored; whom it refuses is accounted for, and kept nowhere."""
    young = {"use": "apparent-minor", "age_group": "shade", "minors": ["dark"], "max_probability": 0.5}
    store = MemoryStore()
    counts = gather(crawled(root, filters=[young]), store).manifest.counts
    refused = counts["inputs"]["reasons"]["filter"]["apparent_minor"]
    assert 0 < refused < 18
    assert counts["inputs"]["kept"] == 18 - sum(counts["inputs"]["reasons"]["filter"].values())
    assert len(sidecars(store)) == 18 - refused
