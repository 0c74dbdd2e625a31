"""Made-up weights: equal, bit for bit, to those that another program made by the same rules."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.models.formula import FormulaWeights, tensor_by_formula
from pipeline.domain.errors import ModelError
from pipeline.domain.weights import Weights, WeightsRef

GOLDEN = Path(__file__).parents[1] / "golden"
CHECK: dict[str, Any] = json.loads((GOLDEN / "formula_check.json").read_text())
REF = WeightsRef(uri="formula:anything")
SMALL = {name: facts for name, facts in CHECK["examples"].items() if "49408" not in name}


@pytest.mark.parametrize("example", SMALL)
def test_single_tensors_are_the_recorded_ones(example: str) -> None:
    """First values and digest of a tensor are those that were recorded."""
    name, _, shape = example.partition(" ")
    found = tensor_by_formula(name, tuple(json.loads(shape)))
    assert found.dtype == np.float32
    assert found.ravel()[:4].tolist() == SMALL[example]["first4"]
    assert hashlib.sha256(found.astype("<f4").tobytes()).hexdigest() == SMALL[example]["sha256"]


def test_a_whole_network_is_the_recorded_one() -> None:
    """All 24 million values of iResNet-18, in the order of their names, have the recorded digest and sum."""
    listed = json.loads((GOLDEN / "keys_iresnet18.json").read_text())
    told = CHECK["whole_state_dict"]["iresnet18"]
    tensors = FormulaWeights().tensors(REF, {name: tuple(facts["shape"]) for name, facts in listed.items()})
    assert {name: str(value.numpy().dtype) for name, value in tensors.items()} == {
        name: facts["dtype"] for name, facts in listed.items()
    }
    digest, total, values = hashlib.sha256(), 0.0, 0
    for name in sorted(name for name, facts in listed.items() if facts["dtype"] == "float32"):
        array = tensors[name].numpy()
        digest.update(name.encode() + b"\0" + array.astype("<f4").tobytes())
        total, values = total + array.sum(dtype=np.float64), values + array.size
    assert digest.hexdigest() == told["sha256"]
    assert (len(listed), values) == (told["entries"], told["float_values"])
    assert total == pytest.approx(told["sum_float64"], abs=1e-9)


def test_integers_are_positions_and_counters() -> None:
    """Positions count up in their shape, step counters stand at 0."""
    assert tensor_by_formula("text_model.embeddings.position_ids", (1, 4)).tolist() == [[0, 1, 2, 3]]
    assert tensor_by_formula("bn1.num_batches_tracked", ()).tolist() == 0


@given(st.integers(2, 4), st.integers(1, 5), st.sampled_from(["fc.weight", "attn.qkv.B", "pos_embed", "x.A"]))
def test_a_tensor_follows_from_name_and_shape_alone(rows: int, columns: int, name: str) -> None:
    """Asking twice, and for others in between, gives the same bytes; another name gives others."""
    first = tensor_by_formula(name, (rows, columns)).tobytes()
    tensor_by_formula("other.weight", (3,))
    assert tensor_by_formula(name, (rows, columns)).tobytes() == first
    assert tensor_by_formula(f"other.{name}", (rows, columns)).tobytes() != first


def test_it_brings_weights_and_has_no_file() -> None:
    """It keeps the port's promise for names and shapes; without names, or for a file, it says why it cannot."""
    bringer: Weights = FormulaWeights()
    assert set(bringer.tensors(REF, {"a.weight": (2, 2)})) == {"a.weight"}
    with pytest.raises(ModelError, match="have no file"):
        bringer.path(REF)
    with pytest.raises(ModelError, match="ask for them by name"):
        bringer.tensors(REF)
    with pytest.raises(ModelError, match="no rule"):
        bringer.tensors(REF, {"gamma": (4,)})


def test_digests_tell_names_apart() -> None:
    """Two references of one name have one digest, of two names two: spaces are told apart by them."""
    bringer = FormulaWeights()
    assert bringer.sha256(REF) == bringer.sha256(WeightsRef(uri="formula:anything"))
    assert bringer.sha256(REF) != bringer.sha256(WeightsRef(uri="formula:another"))
