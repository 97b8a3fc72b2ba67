"""Bootstrap, intervals and floors: coverage of known truths."""

import numpy as np
import pytest
from fake_run import REFERENCE
from scipy.signal import lfilter

from ancdiff.config import EvaluateSettings
from ancdiff.evaluate import free_energy
from ancdiff.evaluate.comparison import Source, absolute, compare
from ancdiff.evaluate.resampling import (
    Sampling,
    bootstrap,
    half_against_half,
    independent,
    interval,
    md_blocks,
    proportion_replicates,
    subset_weights,
)


def covered(low: float, truth: float, high: float) -> bool:
    return low <= truth <= high


def test_interval_of_a_basins_free_energy_covers_the_truth():
    rng = np.random.default_rng(0)
    truth = -np.log(np.array(REFERENCE[:2]))
    hits = np.zeros(2)
    trials = 200
    for _ in range(trials):
        basins = rng.choice(3, size=(400, 1), p=REFERENCE)
        counts = free_energy.basin_counts(basins, np.ones((1, 400)))

        def estimate(weights, basins=basins):
            return free_energy.free_energies(free_energy.basin_counts(basins, weights))[:, 0]

        replicates = bootstrap(estimate, independent(400), 200, rng)
        for b in range(2):
            low, high = interval(free_energy.free_energies(counts)[0, 0, b], replicates[:, b])
            hits[b] += covered(low, truth[b], high)
    # 95 % of 200 is 190 with a standard deviation of 3.1; a bootstrap of 200 repeats loses about 1 %.
    assert (np.abs(hits / trials - 0.945) < 0.045).all()


def chain(n: int, rng: np.random.Generator) -> np.ndarray:
    """Correlated frames: x_{t+1} = 0.9 x_t + noise, stationary with variance 1 and correlation time 10."""
    noise = rng.normal(size=n) * np.sqrt(1 - 0.81)
    noise[0] = rng.normal()
    return lfilter([1.0], [1.0, -0.9], noise)


def test_blocks_cover_where_correlated_frames_taken_for_independent_do_not():
    rng = np.random.default_rng(1)
    hits = {"blocks": 0, "independent": 0}
    trials = 150
    for _ in range(trials):
        x = np.concatenate([chain(2000, rng), chain(2000, rng)])
        samplings = {
            "blocks": Sampling(md_blocks(np.repeat([0, 1], 2000), 20)),
            "independent": independent(4000),
        }
        for name, sampling in samplings.items():
            replicates = bootstrap(lambda w, x=x: w @ x / w.sum(axis=1), sampling, 100, rng)
            hits[name] += covered(*np.insert(interval(x.mean(), replicates), 1, 0.0))
    assert hits["blocks"] / trials > 0.86  # 20 blocks, 100 repeats: 0.92 expected, known to 0.022
    assert hits["independent"] / trials < 0.6  # √19 too narrow


def test_biased_distances_stay_inside_their_interval():
    replicates = np.random.default_rng(0).normal(0.5, 0.1, size=2000)  # resampling pushed 0.3 up to 0.5
    low, high = interval(0.3, replicates, lower=0.0)
    assert low == pytest.approx(0.3 - 0.196, abs=0.02)
    assert high == pytest.approx(0.3 + 0.196, abs=0.02)
    assert interval(0.05, replicates, lower=0.0)[0] == 0
    assert np.isnan(interval(np.nan, replicates)).all()
    assert np.isnan(interval(0.3, None)).all()
    assert np.isnan(interval(0.3, np.full(5, np.nan))).all()


def test_proportion_at_the_edge_keeps_a_width():
    replicates = proportion_replicates(500, 500, 4000, np.random.default_rng(0))
    low, high = interval(1.0, replicates, lower=0.0, upper=1.0)
    assert high == 1
    assert 0.99 < low < 0.9995  # 500 right ones exclude 99 % only just


def test_md_blocks():
    replicas = np.repeat(np.arange(30), 5)
    np.testing.assert_array_equal(md_blocks(replicas, 20), replicas)  # many replicas: each is a block
    blocks = md_blocks(np.array([7] * 10 + [3] * 10), 4)
    np.testing.assert_array_equal(np.bincount(blocks), [5, 5, 5, 5])
    assert len(set(blocks[:10]) & set(blocks[10:])) == 0
    np.testing.assert_array_equal(md_blocks(np.zeros(3, dtype=int), 20), [0, 1, 2])  # fewer frames than blocks


def test_bootstrap_keeps_blocks_together():
    blocks = np.repeat(np.arange(6), 4)
    weights = bootstrap(lambda w: w, Sampling(blocks), 50, np.random.default_rng(0))
    assert weights.shape == (50, 24)
    by_block = weights.reshape(50, 6, 4)
    assert (by_block == by_block[:, :, :1]).all()
    np.testing.assert_array_equal(by_block[:, :, 0].sum(axis=1), 6)


def test_bootstrap_in_chunks_is_the_same(monkeypatch):
    def estimate(weights):
        return weights @ np.arange(24.0)

    sampling = independent(24)
    whole = bootstrap(estimate, sampling, 50, np.random.default_rng(0))
    monkeypatch.setattr("ancdiff.evaluate.resampling._CHUNK_ENTRIES", 100)
    np.testing.assert_array_equal(bootstrap(estimate, sampling, 50, np.random.default_rng(0)), whole)


def test_subsets():
    members = np.array([1, 4, 5, 8])
    weights = subset_weights(members, 10, 2, 7, np.random.default_rng(0))
    assert weights.shape == (7, 10)
    np.testing.assert_array_equal(weights.sum(axis=1), 2)
    assert weights[:, np.setdiff1d(np.arange(10), members)].sum() == 0
    assert subset_weights(members, 10, 4, 7, np.random.default_rng(0)).shape == (1, 10)


def test_halves_never_mix():
    halves = np.array([0] * 6 + [1] * 4)
    pairs = half_against_half(lambda w: w, Sampling(np.arange(10), halves), 3, 5, np.random.default_rng(0))
    assert [few.sum(axis=1).tolist() for few, _ in pairs] == [[3] * 5] * 2
    assert [whole.sum() for _, whole in pairs] == [4, 6]
    for few, whole in pairs:
        assert (few * whole).sum() == 0
    rng = np.random.default_rng(0)
    assert half_against_half(lambda w: w, independent(4), 2, 5, rng) == []
    assert half_against_half(lambda w: w, Sampling(np.arange(4), np.zeros(4, dtype=int)), 2, 5, rng) == []


def test_sampling_of_some_conformers_numbers_blocks_anew():
    taken = Sampling(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])).take(np.array([1, 3]))
    np.testing.assert_array_equal(taken.blocks, [0, 1])
    assert taken.halves is not None
    np.testing.assert_array_equal(taken.halves, [0, 1])


def mean_source(x: np.ndarray, sampling: Sampling, seed: int) -> Source:
    settings = EvaluateSettings(bootstrap_repeats=400, floor_draws=50)
    return Source(lambda w: w @ x / w.sum(axis=1), sampling, settings, (seed,))


def test_a_comparison_counts_both_ensembles_noise_and_its_floor_the_sample_size():
    rng = np.random.default_rng(0)
    model, md = rng.normal(1.0, 1, size=400), rng.normal(0, 1, size=1600)
    source = mean_source(model, independent(400), 1)
    against = mean_source(md, Sampling(np.arange(1600), np.arange(1600) % 2), 2)
    compared = compare(source, against, lambda a, b: a - b)
    assert compared.value == pytest.approx(1.0, abs=0.2)
    assert compared.replicates is not None
    # Var = 1/400 + 1/1600; 400 replicates know a standard deviation to 4 %.
    assert compared.replicates.std() == pytest.approx(np.sqrt(1 / 400 + 1 / 1600), rel=0.15)
    # 400 frames of one half against the 800 of the other, RMS over draws.
    assert compared.floor == pytest.approx(np.sqrt(1 / 400 + 1 / 800), rel=0.6)
    itself = compare(against, against, lambda a, b: a - b)
    assert itself.value == itself.floor
    assert itself.replicates is None
    assert np.isnan(absolute(source).floor)
