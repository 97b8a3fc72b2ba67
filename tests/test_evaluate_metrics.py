"""Each family of metrics against known answers."""

import numpy as np
import pytest
from fake_run import REFERENCE, alanines, build, energy_table, mixture, rotations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from ancdiff.basins import assign_basins
from ancdiff.evaluate import energies, fluctuations, free_energy, geometry
from ancdiff.evaluate import ramachandran as rama
from ancdiff.evaluate.resampling import Sampling, independent, weighted_mean_and_spread
from ancdiff.molecules import Ensemble


def ones(n: int) -> np.ndarray:
    return np.ones((1, n))


class TestRamachandran:
    def test_cells_cover_the_torus_once(self):
        centres = (np.arange(8) + 0.5) / 8 * 2 * np.pi - np.pi
        grid = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 1, 2)
        np.testing.assert_array_equal(rama.bin_indices(grid, 8)[:, 0], np.arange(64))
        edge = np.array([[[np.pi, np.pi]], [[-np.pi, -np.pi]]])
        assert len(set(rama.bin_indices(edge, 8)[:, 0])) == 1  # the ends are one place

    def test_same_is_zero_disjoint_is_ln_2(self):
        p, q = np.array([[[0.5, 0.5, 0, 0]]]), np.array([[[0, 0, 0.25, 0.75]]])
        assert rama.jensen_shannon(p, p) == 0
        assert rama.jensen_shannon(p, q) == pytest.approx(np.log(2))

    def test_half_shared(self):
        # p = (1, 0), q = (½, ½): JSD = H(¾, ¼) − ½ ln 2, worked out by hand.
        expected = 0.75 * np.log(4 / 3) + 0.25 * np.log(4) - 0.5 * np.log(2)
        assert rama.jensen_shannon(np.array([[[1.0, 0]]]), np.array([[[0.5, 0.5]]])) == pytest.approx(expected)

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
    @given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
    def test_symmetric_and_bounded(self, a, b):
        p, q = np.array([[a]]) / sum(a), np.array([[b]]) / sum(b)
        one = rama.jensen_shannon(p, q)
        assert one == pytest.approx(rama.jensen_shannon(q, p), abs=1e-12)
        assert 0 <= one <= np.log(2)

    def test_matched_size_is_the_smallest_half(self):
        md = Sampling(np.arange(10), np.array([0] * 7 + [1] * 3))
        assert rama.matched_size([independent(50), md]) == 3
        assert rama.matched_size([independent(5), Sampling(np.arange(20), np.arange(20) % 2)]) == 5
        assert rama.matched_size([independent(5), Sampling(np.arange(9), np.zeros(9, dtype=int))]) == 5

    def test_samples_of_one_density_are_at_the_floor_at_any_size(self):
        """Unmatched, the divergence of few conformers would be taken for an error of the model."""
        rng = np.random.default_rng(0)
        md = rama.bin_indices(np.radians(mixture(REFERENCE, 4000, rng)), 36)
        sampling = Sampling(np.arange(4000), np.arange(4000) % 2)
        floors = []
        for size in (50, 200, 800):
            cells = rama.bin_indices(np.radians(mixture(REFERENCE, size, rng)), 36)
            value, _ = rama.divergence(
                cells, md, 36, sampling=independent(size), against_sampling=sampling,
                size=size, draws=10, repeats=20, rng=rng,
            )  # fmt: skip
            floor = rama.divergence_floor(md, 36, sampling=sampling, size=size, draws=10, rng=rng)
            # One sample's own scatter is 5–10 % of its divergence here.
            assert value[0] == pytest.approx(floor[0], rel=0.25)
            floors.append(floor[0])
        assert floors[0] > 1.5 * floors[1] > 2 * floors[2]

    def test_no_halves_no_floor(self):
        cells = np.zeros((4, 2), dtype=int)
        floor = rama.divergence_floor(cells, 6, sampling=independent(4), size=2, draws=2, rng=np.random.default_rng(0))
        assert np.isnan(floor).all()


class TestFreeEnergy:
    def test_populations_and_pseudo_count(self):
        counts = np.array([[3.0, 1.0, 0.0]])
        np.testing.assert_allclose(free_energy.populations(counts), np.array([[3.5, 1.5, 0.5]]) / 5.5)
        np.testing.assert_allclose(free_energy.free_energies(counts)[0, 2], np.log(11))

    def test_counts_are_weighted(self):
        basins = np.array([[0, 1], [0, 2], [1, 1]])
        counts = free_energy.basin_counts(basins, np.array([[1.0, 1, 1], [2, 0, 1]]))
        np.testing.assert_array_equal(counts, [[[2, 1, 0], [0, 2, 1]], [[2, 1, 0], [0, 3, 0]]])

    def test_shift_of_populations_in_kt(self):
        # Ten times as much of basin 0 relative to basin 1: ΔΔF = −ln 10 (counts large: no trace of the pseudo-count).
        reference, model = np.array([[1e8, 1e8, 0]]), np.array([[10e8, 1e8, 0]])
        counted = free_energy.counted_basins(reference, 0.02)
        np.testing.assert_array_equal(counted, [[True, True, False]])
        errors = free_energy.basin_errors(model, reference)
        np.testing.assert_allclose(errors[0, :2], [np.log(0.5 * 11 / 10), np.log(0.5 * 11)], atol=1e-6)
        assert free_energy.difference_error(model, reference, counted) == pytest.approx(np.log(10), abs=1e-6)
        expected = np.sqrt(np.mean(errors[0, :2] ** 2))
        assert free_energy.system_error(errors, counted) == pytest.approx(expected)
        assert free_energy.residue_errors(errors, counted)[0] == pytest.approx(expected)

    def test_rms_is_over_counted_basins_of_all_residues(self):
        errors = np.array([[[3.0, 0.0, 99.0], [4.0, 99.0, 99.0]]])
        counted = np.array([[True, True, False], [True, False, False]])
        assert free_energy.system_error(errors, counted)[0] == pytest.approx(np.sqrt(25 / 3))
        np.testing.assert_allclose(free_energy.residue_errors(errors, counted)[0], [np.sqrt(4.5), 4.0])

    def test_one_counted_basin_has_no_differences(self):
        counts = np.array([[100.0, 0, 0]])
        assert np.isnan(free_energy.difference_error(counts, counts, np.array([[True, False, False]])))

    def test_pairs(self):
        np.testing.assert_array_equal(free_energy.differences(np.array([1.0, 5.0, 7.0])), [-4, -6, -2])
        assert [free_energy.pair_name(p) for p in free_energy.BASIN_PAIRS] == [
            "alpha_r-beta",
            "alpha_r-alpha_l",
            "beta-alpha_l",
        ]

    def test_mixture(self):
        rng = np.random.default_rng(3)
        basins = assign_basins(np.radians(mixture(REFERENCE, 20_000, rng)))
        found = free_energy.populations(free_energy.basin_counts(basins, ones(20_000)))[0, 0]
        np.testing.assert_allclose(found, REFERENCE, atol=0.015)  # four standard errors


class TestGeometry:
    def test_bonds_and_angles_of_the_builder(self):
        ensemble = build(np.full((2, 1, 2), -60.0), rng=np.random.default_rng(0))
        molecule = ensemble.molecule
        lengths = dict(zip(map(tuple, molecule.bonds.tolist()), geometry.bond_lengths_nm(ensemble)[0], strict=True))
        assert lengths[1, 3] == pytest.approx(0.1335, abs=1e-6)
        triples = geometry.angle_triples(molecule)
        angles = dict(zip(map(tuple, triples.tolist()), geometry.bond_angles_deg(ensemble)[0], strict=True))
        assert angles[3, 4, 6] == pytest.approx(111.0, abs=1e-3)
        assert angles[1, 3, 4] == pytest.approx(121.7, abs=1e-3)
        assert len(triples) == 11  # Σ d(d−1)/2 over the degrees 1 3 1 2 3 1 3 1 2 1

    def test_errors_are_in_the_units_of_the_bonds(self):
        reference = np.array([[[0.15, 0.14], [0.003, 0.003]]])
        shifted = reference + np.array([[[0.003, -0.003], [0.0, 0.004]]])
        assert geometry.mean_error(shifted, reference) == pytest.approx(0.003)
        assert geometry.spread_error(shifted, reference) == pytest.approx(0.004 / np.sqrt(2))
        assert geometry.rms_error(shifted, reference) == pytest.approx(np.sqrt(9e-6 + 8e-6))
        assert geometry.spread(reference) == pytest.approx(0.003)

    def test_mean_and_spread_keep_their_digits_far_from_zero(self):
        x = np.random.default_rng(0).normal(1e6, 1e-3, size=(500, 2))
        mean, spread = weighted_mean_and_spread(x, ones(500))[0]
        np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(spread, x.std(axis=0), rtol=1e-6)

    def test_weights_stand_for_copies(self):
        x = np.random.default_rng(1).normal(size=(4, 3))
        weighted = weighted_mean_and_spread(x, np.array([[2.0, 0, 1, 1]]))[0]
        copies = x[[0, 0, 2, 3]]
        np.testing.assert_allclose(weighted, [copies.mean(axis=0), copies.std(axis=0)])

    def test_mirror_image_has_no_right_stereocentre(self):
        natural = build(mixture(REFERENCE, 20, np.random.default_rng(0), residues=2), rng=np.random.default_rng(1))
        mirror = Ensemble(natural.molecule, natural.positions_nm * np.array([1, 1, -1], dtype=np.float32))
        right = geometry.hands(natural)
        np.testing.assert_array_equal(right, [1, 1])
        assert geometry.right_stereocentres(natural, right).mean() == 1
        assert geometry.right_stereocentres(mirror, right).mean() == 0
        assert geometry.right_stereocentres(mirror, geometry.hands(mirror)).mean() == 1  # D amino acids in the MD

    def test_pairs_three_bonds_apart(self):
        pairs = {tuple(p) for p in geometry.distant_pairs(alanines(1)).tolist()}
        assert (0, 4) in pairs  # CH3–C–N–CA
        assert (0, 3) not in pairs  # CH3–C–N
        assert (0, 1) not in pairs
        assert len(pairs) == 45 - 9 - 11  # all, less bonds, less angles (no rings)

    def test_a_clash_is_counted(self):
        ensemble = build(np.full((3, 1, 2), -60.0))
        positions = ensemble.positions_nm.copy()
        positions[1, 9] = positions[1, 0] + 0.01  # the last methyl onto the first
        counts = geometry.clash_counts(Ensemble(ensemble.molecule, positions))
        assert counts[0] == counts[2] == 0
        assert counts[1] >= 1

    def test_threshold_of_a_clash(self):
        molecule = alanines(1)
        positions = np.arange(30).reshape(1, 10, 3).astype(np.float32)  # far apart
        limit = 0.6 * (0.17 + 0.17)  # two carbons
        for distance, expected in ((limit - 1e-4, 1), (limit + 1e-4, 0)):
            positions[0, 9] = positions[0, 0] + np.array([distance, 0, 0])
            assert geometry.clash_counts(Ensemble(molecule, positions))[0] == expected


class TestEnergies:
    def test_failed_and_non_finite_energies_are_left_out_and_counted(self):
        table = energy_table(np.array([2.0, 4.0, np.inf, 8.0, 6.0]), np.array([0, 5, 6, 7, 9]), failed=1)
        values, conformers, failed = energies.reduced_energies(table, 2.0)
        np.testing.assert_array_equal(values, [1, 2, 4])
        np.testing.assert_array_equal(conformers, [0, 5, 7])
        assert failed == 2

    def test_shift_is_the_distance(self):
        u = np.random.default_rng(0).exponential(3, size=777)
        a, b = energies.quantiles(u, ones(777)), energies.quantiles(u + 2.5, ones(777))
        assert energies.wasserstein(b, a) == pytest.approx(2.5)
        assert energies.median(b) - energies.median(a) == pytest.approx(2.5)
        assert energies.wasserstein(a, a) == 0

    def test_agrees_with_scipy_for_unequal_sizes(self):
        rng = np.random.default_rng(1)
        u, v = rng.normal(0, 2, size=300), rng.exponential(3, size=5000)
        ours = energies.wasserstein(energies.quantiles(u, ones(300)), energies.quantiles(v, ones(5000)))
        assert ours == pytest.approx(wasserstein_distance(u, v), rel=0.01)  # 1,000 quantiles

    def test_median_and_percentiles(self):
        table = energies.quantiles(np.arange(1001.0), ones(1001))
        assert energies.median(table) == pytest.approx(500, abs=1)
        assert energies.quantile(table, 0.05) == pytest.approx(50, abs=1)
        assert energies.quantile(table, 0.95) == pytest.approx(950, abs=1)

    def test_weights_stand_for_copies(self):
        u = np.array([5.0, 1.0, 9.0])
        np.testing.assert_array_equal(
            energies.quantiles(u, np.array([[2.0, 1, 0]])), energies.quantiles(np.array([5.0, 5, 1]), ones(3))
        )


class TestFluctuations:
    def test_rmsf_of_isotropic_jitter(self):
        """√3 s per atom; superposition takes out six of the 3N degrees of freedom (10 atoms: a factor √(24/30))."""
        rng = np.random.default_rng(0)
        one = build(np.full((1, 1, 2), -60.0)).positions_nm[0]
        jittered = one + 0.005 * rng.normal(size=(4000, 10, 3))
        moved = jittered @ rotations(4000, rng) + rng.normal(size=(4000, 1, 3))
        rmsf = fluctuations.rmsf(fluctuations.superpose_on_mean(moved), ones(4000))[0]
        total = np.sqrt(np.mean(rmsf**2))
        assert total == pytest.approx(0.005 * np.sqrt(3 * 24 / 30), rel=0.02)

    def test_pair_rmsd_of_isotropic_jitter(self):
        rng = np.random.default_rng(1)
        one = build(np.full((1, 1, 2), -60.0)).positions_nm[0]
        moved = (one + 0.005 * rng.normal(size=(1000, 10, 3))) @ rotations(1000, rng)
        pairs = fluctuations.draw_pairs(1000, 3000, rng)
        assert (pairs[:, 0] != pairs[:, 1]).all()
        rmsd = fluctuations.pair_rmsd(moved, pairs)
        assert np.sqrt(np.mean(rmsd**2)) == pytest.approx(0.005 * np.sqrt(2 * 24 / 10), rel=0.02)

    def test_pair_rmsd_is_the_distance_after_superposition(self):
        rng = np.random.default_rng(2)
        p = build(mixture(REFERENCE, 6, rng), rng=rng).positions_nm.astype(np.float64)
        pairs = np.array([[0, 1], [2, 3], [4, 5], [0, 5]])
        for (a, b), rmsd in zip(pairs, fluctuations.pair_rmsd(p, pairs), strict=True):
            onto = p[b] - p[b].mean(axis=0)
            moved = fluctuations.superpose(p[a : a + 1], p[b])[0]
            assert rmsd == pytest.approx(np.sqrt(np.mean(np.sum((moved - onto) ** 2, axis=1))), abs=1e-9)

    def test_turned_copies_coincide_and_mirror_images_do_not(self):
        rng = np.random.default_rng(3)
        one = build(np.array([[[-70.0, 140.0]]])).positions_nm[0].astype(np.float64)
        turned = one @ rotations(5, rng) + rng.normal(size=(5, 1, 3))
        assert np.ptp(fluctuations.superpose(turned, one), axis=0).max() < 1e-9
        both = np.stack([one, one * [1, 1, -1]])
        assert fluctuations.pair_rmsd(both, np.array([[0, 1]]))[0] > 0.03

    def test_mean_pair_rmsd_weighs_pairs(self):
        pairs, rmsd = np.array([[0, 1], [1, 2]]), np.array([1.0, 4.0])
        weights = np.array([[1.0, 1, 1], [1, 2, 3], [1, 0, 1]])
        np.testing.assert_allclose(fluctuations.mean_pair_rmsd(rmsd, pairs, weights), [2.5, (2 + 24) / 8, np.nan])
        assert len(fluctuations.draw_pairs(1, 10, np.random.default_rng(0))) == 0

    def test_errors_and_correlation(self):
        profile = np.array([[1.0, 2.0, 3.0]])
        assert fluctuations.rmsf_error(profile + 0.5, profile) == pytest.approx(0.5)
        assert fluctuations.rmsf_correlation(profile * 3 + 1, profile) == pytest.approx(1)
        assert fluctuations.rmsf_correlation(-profile, profile) == pytest.approx(-1)
        assert np.isnan(fluctuations.rmsf_correlation(np.ones((1, 3)), profile))
