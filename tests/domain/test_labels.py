"""Labels with sources: names come apart and together again, and agreement is what all labellers say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.labels import (
    Agreement,
    LabelName,
    agreement,
    labellers,
    likeliest,
    posterior,
    sourced,
)

WORD = st.text("abcdefgh_", min_size=1, max_size=8)
SHADES = ("light", "medium", "dark")
TWO = {
    "shade=light": 0.2,
    "shade=medium": 0.3,
    "shade=dark": 0.5,
    "shade@second=light": 0.1,
    "shade@second=medium": 0.2,
    "shade@second=dark": 0.7,
    "tone@ita": 6.5,
    "yaw_deg": -3.0,
}


@given(WORD, st.one_of(st.just(""), st.from_regex(r"[a-z0-9][a-z0-9_-]{0,5}", fullmatch=True)), st.none() | WORD)
def test_a_name_comes_apart_and_together_again(field: str, labeller: str, value: str | None) -> None:
    """What was put together from field, labeller and value is taken apart into them."""
    name = LabelName(field, labeller, value)
    assert LabelName.parse(str(name)) == name


def test_a_value_may_hold_the_dividing_signs() -> None:
    """Only the first `=` divides, and `@` belongs to what stands before it."""
    assert LabelName.parse("age@fair=70+=a@b") == LabelName("age", "fair", "70+=a@b")


@pytest.mark.parametrize(
    ("name", "labeller", "renamed"),
    [("shade=dark", "second", "shade@second=dark"), ("yaw_deg", "hopenet", "yaw_deg@hopenet")],
)
def test_a_source_goes_between_field_and_value(name: str, labeller: str, renamed: str) -> None:
    """Attributes and plain numbers alike get the labeller after the field."""
    assert sourced(name, labeller) == renamed


@pytest.mark.parametrize(
    ("name", "labeller", "message"),
    [
        ("shade=dark", "", "labeller ''"),
        ("shade=dark", "a=b", "1 to 32 of a-z"),
        ("shade=dark", "Second", "1 to 32 of a-z"),
        ("shade@first=dark", "second", "has the labeller 'first' already"),
    ],
)
def test_a_name_has_one_source_and_that_is_a_word(name: str, labeller: str, message: str) -> None:
    """A labeller that would change how names are read, and a second source, are refused."""
    with pytest.raises(ValueError, match=message):
        sourced(name, labeller)


def test_labellers_and_their_answers_are_found() -> None:
    """The primary labeller comes first; plain numbers and other fields are nobody's answer about this one."""
    assert labellers(TWO, "shade") == ("", "second")
    assert labellers(TWO, "tone") == ()
    assert posterior(TWO, "shade", "second") == {"light": 0.1, "medium": 0.2, "dark": 0.7}
    assert posterior(TWO, "shade@second") == {}
    assert posterior(TWO, "hat") == {}


def test_agreement_is_the_common_value_with_the_mean_probability() -> None:
    """Both find `dark` likeliest: (0.5 + 0.7) / 2."""
    found = agreement(TWO, "shade", SHADES)
    assert found == Agreement(True, "dark", pytest.approx(0.6), {"": "dark", "second": "dark"})


DISAGREEING = [
    ({"shade@second=dark": 0.15, "shade@second=light": 0.65}, None, {"": "dark", "second": "light"}),
    ({"shade@second=dark": math.nan}, None, {"": "dark", "second": ""}),
    ({}, ("", "second", "third"), {"": "dark", "second": "dark", "third": ""}),
]


@pytest.mark.parametrize(("changes", "among", "answers"), DISAGREEING)
def test_another_answer_nan_or_none_is_no_agreement(
    changes: dict[str, float], among: tuple[str, ...] | None, answers: dict[str, str]
) -> None:
    """One labeller that says something else, gives NaN or was asked and says nothing is enough."""
    assert agreement(TWO | changes, "shade", SHADES, among) == Agreement(False, "", 0.0, answers)


def test_nobody_agrees_about_what_nobody_was_asked() -> None:
    """An attribute without labellers has no agreed value."""
    assert agreement(TWO, "hat", ("yes", "no")) == Agreement(False, "", 0.0, {})


@given(st.lists(st.sampled_from((0.1, 0.2, 0.3)), min_size=3, max_size=3))
def test_the_first_of_equal_values_counts(shares: list[float]) -> None:
    """The likeliest value is the first in the attribute's order that no other exceeds."""
    given_shares = dict(zip(SHADES, shares, strict=True))
    assert likeliest(given_shares, SHADES) == SHADES[shares.index(max(shares))]
    assert likeliest(given_shares | {"dark": math.nan}, SHADES) is None
    assert likeliest({}, SHADES) is None
    assert likeliest({}, ()) is None
