"""Fitting a bank: means and covariances as their definitions say, shrunk where people are few, and nobody in it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.banking import (
    LEAST_IDENTITIES,
    allows_commercial_use,
    axes_for,
    fit,
    identity_means,
    ledoit_wolf,
    principal_axes,
    shrunk,
)
from pipeline.domain.errors import BadVectorError, UserError
from pipeline.domain.records import template_of, unit_rows
from pipeline.domain.rng import Key, Stream

Float64 = npt.NDArray[np.float64]


def normal(count: int, dimensions: int, seed: int = 0) -> Float64:
    """Return standard normal rows."""
    return Key(seed, Stream.PREVIEW).generator().standard_normal((count, dimensions))


def people(count: int, dimensions: int = 12, seed: int = 0, towards: Float64 | None = None) -> Float64:
    """Return unit-length identity means of a population with unequal variances."""
    raw = normal(count, dimensions, seed) * np.linspace(1.5, 0.2, dimensions)
    raw = raw + (0 if towards is None else towards)
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True))


class TestIdentityMeans:
    """One mean for each identity."""

    @given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=24), seed=st.integers(0, 99))
    def test_each_mean_is_the_template_of_its_images(self, labels: list[int], seed: int) -> None:
        """Mixed or sorted, an identity's mean is the unit-length mean of its own images in their order."""
        numbers = {v: n for n, v in enumerate(dict.fromkeys(labels))}
        who = np.array([numbers[v] for v in labels], np.int64)
        emb = unit_rows(normal(len(labels), 6, seed), "test")
        means, images = identity_means(emb, who)
        assert images.tolist() == np.bincount(who).tolist()
        for n in range(len(numbers)):
            np.testing.assert_allclose(means[n], template_of(emb[who == n]), atol=1e-6)

    def test_at_most_k_images_count(self) -> None:
        """With k = 2 the first two images of each identity make its mean, and later ones change nothing."""
        emb = unit_rows(normal(9, 5), "test")
        who = np.array([0, 0, 0, 1, 1, 1, 1, 2, 0])
        means, images = identity_means(emb, who, at_most=2)
        assert images.tolist() == [2, 2, 1]
        np.testing.assert_allclose(means[1], template_of(emb[3:5]), atol=1e-6)

    def test_images_that_cancel_out_have_no_mean(self) -> None:
        """Opposite embeddings of one identity are an error, not a NaN."""
        one = unit_rows(normal(1, 5), "test")
        with pytest.raises(BadVectorError, match="1 identities cancel out"):
            identity_means(np.concatenate([one, -one]), np.zeros(2, np.int64))


class TestShrinkage:
    """The covariance and the share of its target."""

    def test_the_share_is_that_of_the_definition(self) -> None:
        """Against the estimator of Ledoit and Wolf 2004, summed row by row as the paper writes it."""
        rows = normal(40, 7) * np.linspace(2, 0.1, 7)
        sample = sum(np.outer(r, r) for r in rows) / 40
        mu = np.trace(sample) / 7
        distance = np.linalg.norm(sample - mu * np.eye(7)) ** 2
        error = min(distance, sum(np.linalg.norm(np.outer(r, r) - sample) ** 2 for r in rows) / 40**2)
        covariance, share = ledoit_wolf(rows)
        assert share == pytest.approx(error / distance, rel=1e-9)
        np.testing.assert_allclose(covariance, share * mu * np.eye(7) + (1 - share) * sample, rtol=1e-9)

    def test_fewer_people_shrink_more_and_shrinking_helps(self) -> None:
        """The share falls as people grow in number, and the shrunk covariance lies nearer to the truth."""
        truth = np.diag(np.linspace(1, 0.05, 30))
        shares = []
        for count in (10, 40, 400, 20_000):
            rows = normal(count, 30, count) * np.sqrt(np.diag(truth))
            covariance, share = ledoit_wolf(rows)
            shares.append(share)
            sample = rows.T @ rows / count
            if count < 100:
                assert np.linalg.norm(covariance - truth) < np.linalg.norm(sample - truth)
        assert shares == sorted(shares, reverse=True)
        assert shares[-1] < 0.02

    @given(count=st.integers(2, 30), dimensions=st.integers(2, 20), seed=st.integers(0, 50))
    def test_any_rows_give_a_covariance_with_a_factor(self, count: int, dimensions: int, seed: int) -> None:
        """Fewer rows than dimensions, or all in a plane: the shrunk covariance is symmetric and positive definite."""
        rows = normal(count, dimensions, seed)
        rows[:, -1] = 0
        covariance, share = ledoit_wolf(rows)
        assert 0 < share <= 1
        np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
        assert np.linalg.eigvalsh(covariance).min() > 0

    def test_a_target_is_taken_whole_where_it_is_the_sample(self) -> None:
        """A sample that equals its target is that target."""
        rows = np.eye(4)
        covariance, share = shrunk(rows, np.eye(4) / 4)
        assert share == 1.0
        np.testing.assert_allclose(covariance, np.eye(4) / 4)


class TestFit:
    """Gaussians of everyone and of cells."""

    def test_everyone_is_the_mean_and_covariance_of_the_means(self) -> None:
        """With many people the factor squares to the covariance of the identity means, lower triangle only."""
        means = people(5000)
        fitted = fit(means)
        mean, factor = fitted.gaussians["all"]
        np.testing.assert_allclose(mean, means.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(factor @ factor.T, np.cov(means.T, bias=True), atol=1e-3)
        assert np.all(np.triu(factor, 1) == 0)
        assert fitted.cells["all"].identities == 5000

    def test_a_cell_has_its_own_mean_and_its_own_spread(self) -> None:
        """Where a cell has more people than dimensions its Gaussian is its own; draws from it land where it is."""
        north = np.eye(12)[0] * 4
        means = np.concatenate([people(400, seed=1, towards=north), people(400, seed=2, towards=-north)])
        fitted = fit(means, ["north"] * 400 + ["south"] * 400)
        assert {c: f.covariance for c, f in fitted.cells.items()} == {"all": "own", "north": "own", "south": "own"}
        for cell, rows in (("north", means[:400]), ("south", means[400:])):
            np.testing.assert_allclose(fitted.gaussians[cell][0], rows.mean(axis=0), atol=1e-12)
            mean, factor = fitted.gaussians[cell]
            drawn = mean + normal(500, 12, 9) @ factor.T
            assert (np.sign(drawn[:, 0]) == np.sign(mean[0])).mean() > 0.98

    def test_a_small_cell_shares_the_spread_and_a_tiny_one_is_left_to_all(self) -> None:
        """At most as many people as dimensions: the covariance of everyone around their cells. Under 20: nothing."""
        means = people(300, dimensions=40)
        cells = ["big"] * 200 + ["small"] * 30 + ["tiny"] * (LEAST_IDENTITIES - 1) + [""] * (100 - 49)
        fitted = fit(means, cells)
        assert fitted.cells["big"].covariance == "own"
        assert fitted.cells["small"].covariance == "shared"
        assert fitted.too_few == {"tiny": LEAST_IDENTITIES - 1}
        assert "tiny" not in fitted.gaussians
        assert "" not in fitted.gaussians
        centred = np.concatenate([means[:200] - means[:200].mean(0), means[200:230] - means[200:230].mean(0)])
        others = means[230:] - means.mean(0)
        within, _ = ledoit_wolf(np.concatenate([centred, others]))
        factor = fitted.gaussians["small"][1]
        np.testing.assert_allclose(factor @ factor.T, within, atol=1e-9)

    def test_a_cell_may_be_asked_to_be_larger_never_smaller(self) -> None:
        """`least` raises the floor; below the hard floor it is refused."""
        means = people(100)
        cells = ["a"] * 60 + ["b"] * 40
        assert set(fit(means, cells, least=50).gaussians) == {"all", "a"}
        with pytest.raises(UserError, match="fewer than 20 would tell too much"):
            fit(means, cells, least=LEAST_IDENTITIES - 1)

    @pytest.mark.parametrize(("count", "dimensions", "needed"), [(19, 12, 20), (127, 512, 128)])
    def test_too_few_people_are_refused(self, count: int, dimensions: int, needed: int) -> None:
        """Fewer than 20, or than a quarter of the dimensions, would describe themselves and nobody else."""
        with pytest.raises(UserError, match=f"{count} identities in {dimensions} dimensions; at least {needed}"):
            fit(people(count, dimensions))
        fit(people(needed, dimensions))

    def test_people_who_are_all_alike_are_refused(self) -> None:
        """A population of one vector has no spread to draw from."""
        with pytest.raises(UserError, match="all alike"):
            fit(np.repeat(people(1), 30, axis=0))

    def test_no_member_lies_at_a_stored_row(self) -> None:
        """Neither means nor factors hold anybody's vector: each stored row is far from every member."""
        means = people(60, dimensions=12)
        fitted = fit(means, ["a"] * 30 + ["b"] * 30)
        for mean, factor in fitted.gaussians.values():
            stored = np.concatenate([mean[None], factor, factor.T])
            stored = stored / np.linalg.norm(stored, axis=1, keepdims=True)
            assert np.abs(stored @ means.T).max() < 0.999


def test_principal_axes_are_those_of_the_covariance() -> None:
    """Orthonormal axes with falling variances that give the covariance back, each with its sign settled."""
    covariance, _ = ledoit_wolf(people(400))
    axes, std = principal_axes(np.linalg.cholesky(covariance))
    np.testing.assert_allclose(axes.T @ axes, np.eye(12), atol=1e-12)
    np.testing.assert_allclose((axes * std**2) @ axes.T, covariance, atol=1e-12)
    assert list(std) == sorted(std, reverse=True)
    assert all(axes[np.abs(axes[:, k]).argmax(), k] > 0 for k in range(12))


@pytest.mark.parametrize(("variance", "axes"), [(0.5, 1), (0.8, 1), (0.81, 2), (0.95, 2), (0.99, 3), (1.0, 4)])
def test_axes_that_hold_a_share_of_the_variance(variance: float, axes: int) -> None:
    """As few axes as hold the share asked for; all of them for all of it."""
    assert axes_for(np.sqrt(np.array([0.8, 0.15, 0.04, 0.01])), variance) == axes


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("Apache-2.0", True),
        ("cc0-1.0", True),
        ("CC-BY-NC-4.0", False),
        ("InsightFace non-commercial", False),
        ("", False),
    ],
)
def test_only_known_licences_allow_commercial_use(licence: str, allowed: bool) -> None:
    """What is not known to allow it is taken to forbid it."""
    assert allows_commercial_use(licence) is allowed
