"""`facemint measure` and labellers in recipes: what a user types, gets wrong, and gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import FacemintError, LeaseHeldError, OutputError, RecipeError, UserError
from pipeline.domain.labels import agreement, labellers
from pipeline.flow.commit import receipts
from tests.command_line import facemint, facts_of
from tests.worlds import Silent, mint, sketches

SECOND = {"measures": [{"use": "sketch"}, {"use": "sketch", "labeller": "second"}]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished dataset in a folder."""
    out = tmp_path_factory.mktemp("measure") / "sketches"
    mint(sketches(exports=[]), LocalStore(out))
    return out


def test_the_verb_adds_resumes_and_says_so(dataset: Path) -> None:
    """The first run adds to every unit, the second finds everything there; both say which model answered."""
    first = facts_of("measure", str(dataset), "--add", "copy-hash")
    assert first["measures"] == ["phash_hi", "phash_lo"]
    assert first["model"]["licence"] == "Apache-2.0"
    assert first["units_before"] == 0 < first["units"]
    again = facemint("measure", str(dataset), "--add", "copy-hash")
    assert again.exit_code == 0
    assert "copy-hash: copy-hash-dct64 (Apache-2.0" in again.stdout
    assert f"{first['units']} units, {first['units']} stood before: 0 images read" in again.stdout
    assert "Added: phash_hi, phash_lo" in again.stdout
    anew = facts_of("measure", str(dataset), "--add", "copy-hash", "--replace")
    assert anew["images"] == first["images"] > 0


def test_a_recogniser_is_added_the_same_way(dataset: Path) -> None:
    """Its options go with --set, and the space of its vectors is named."""
    done = facemint("measure", str(dataset), "--add", "sketch-judge", "--set", "batch=16")
    assert done.exit_code == 0
    assert "embeddings of 16 numbers in the space sketch-judge" in done.stdout


MISTAKES: list[tuple[str, list[str], str]] = [
    ("lightning", [], r"--add lightning: unknown; measures: copy-hash, .*lighting.*recognisers: .*sketch-judge"),
    ("sketch", [], r"gives 'yaw_deg', which this dataset has from its recipe; .*--set labeller=NAME"),
    (
        "lighting",
        ["alignment=arcface-112"],
        r"reads faces aligned to 'arcface-112', those of this dataset .*'sketch-32'",
    ),
    ("lighting", ["brightness=1"], r"--set brightness=1: .*options of lighting: alignment, labeller"),
    ("skin-tone", ["labeller=A b"], r"--set labeller=A b: .*pattern"),
    ("skin-tone", ["labeller"], r"--set labeller: got no `=`"),
    ("phantom-judge", [], r"reads faces aligned to 'phantom-112'"),
]


@pytest.mark.parametrize(("name", "overrides", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(dataset: Path, name: str, overrides: list[str], message: str) -> None:
    """Unknown names and options, other alignments and names that are taken are the user's mistakes."""
    store = LocalStore(dataset)
    before = store.list("")
    with pytest.raises(UserError, match=message) as caught:
        wiring.measure_on(store, name, overrides, Silent())
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2
    assert store.list("") == before


def test_two_additions_never_give_one_name() -> None:
    """What was added under a labeller's name is taken, for the next addition of the same names."""
    store = MemoryStore()
    mint(sketches(exports=[]), store)
    wiring.measure_on(store, "lighting", [], Silent())
    wiring.measure_on(store, "lighting", ["labeller=again"], Silent())
    assert wiring.measure_on(store, "lighting", [], Silent())["images"] == 0
    with pytest.raises(UserError, match="executor ray-ish: unknown; inline or ray"):
        wiring.measure_on(store, "skin-tone", [], Silent(), executor="ray-ish")
    with pytest.raises(OutputError, match="other processes cannot see it"):
        wiring.measure_on(store, "skin-tone", [], Silent(), executor="ray")


def test_no_dataset_and_a_held_one_are_refused(dataset: Path) -> None:
    """Nothing is added where no dataset is, nor while a run works on it; the lease is free again afterwards."""
    from pipeline.adapters.machine import SystemClock
    from pipeline.flow.lease import acquire

    with pytest.raises(OutputError, match="no dataset here"):
        wiring.measure_on(MemoryStore(), "lighting", [], Silent())
    store = LocalStore(dataset)
    other = acquire(store, SystemClock(), {"run": "x", "host": "elsewhere", "pid": 1}, lambda _: False)
    with pytest.raises(LeaseHeldError):
        wiring.measure_on(store, "natural-colour", [], Silent())
    other.release()
    wiring.measure_on(store, "natural-colour", [], Silent())
    wiring.measure_on(store, "natural-colour", [], Silent())


def test_an_interrupted_addition_lets_the_lease_go() -> None:
    """A model that fails ends the run with its error, and the next run need not wait."""
    from pipeline.execute.stop import Stop

    store = MemoryStore()
    mint(sketches(exports=[]), store)
    stop = Stop()
    stop.ask(15)
    with pytest.raises(FacemintError):
        wiring.measure_on(store, "lighting", [], Silent(), stop=stop)
    assert wiring.measure_on(store, "lighting", [], Silent())["units_before"] == 0


def test_a_recipe_with_two_labellers_stores_both_and_says_who_they_are() -> None:
    """Each labeller's answers go by names of their own, the manifest has a card for each, and agreement can be read."""
    store = MemoryStore()
    published = mint(sketches(exports=[], **SECOND), store)
    models = published.manifest.models
    assert models["measure sketch"]["sha256"] == models["measure sketch as second"]["sha256"]
    unit = min(receipts(store, "make-"))
    (row, *_) = Segments().read_rows(store, unit, ["measures"])
    numbers = dict(row["measures"])
    assert labellers(numbers, "shade") == ("", "second")
    assert numbers["shade@second=dark"] == numbers["shade=dark"]
    assert agreement(numbers, "shade", ("light", "dark")).agreed


def test_a_second_labeller_may_be_balanced_by() -> None:
    """`field@labeller` is an attribute like any other."""
    recipe = sketches(exports=[], **SECOND, balance={"by": ["shape@second", "shade"]})
    assert [name for name, _ in wiring.targets_of(recipe).fields] == ["shape@second", "shade"]


def test_one_name_by_two_measures_is_refused_with_the_way_out() -> None:
    """The message names the key that keeps both."""
    with pytest.raises(RecipeError, match=r"yaw_deg.*given by two of them; .*`labeller: name`.*'yaw_deg@name'"):
        sketches(measures=[{"use": "sketch"}, {"use": "sketch"}])


@pytest.mark.parametrize("labeller", ["A", "a=b", "a@b", "", "x" * 33])
def test_a_labeller_is_a_short_word(labeller: str) -> None:
    """Signs that divide names are refused when the recipe is read."""
    with pytest.raises(RecipeError, match="labeller"):
        sketches(measures=[{"use": "sketch"}, {"use": "sketch", "labeller": labeller}])


def test_a_measure_of_another_alignment_is_refused() -> None:
    """Cheeks are looked for where the template has them, so the template must be that of the generator."""
    measures = [{"use": "sketch"}, {"use": "lighting"}]
    with pytest.raises(RecipeError, match=r"measures.1: .*'arcface-112'.*set measures.1.alignment: sketch-32"):
        sketches(measures=measures)
    sketches(measures=[{"use": "sketch"}, {"use": "lighting", "alignment": "sketch-32"}])


def test_labellers_change_the_fingerprint() -> None:
    """Other names in the segments are other bytes."""
    one, two = (wiring.prints_of(sketches(exports=[], **changes)).fingerprint for changes in ({}, SECOND))
    assert one != two
