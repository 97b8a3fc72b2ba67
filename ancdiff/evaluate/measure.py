"""Every metric of every ensemble of one system."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ancdiff.basins import BASINS, assign_basins, ramachandran
from ancdiff.config import EvaluateSettings
from ancdiff.corridor import MD_ENSEMBLES
from ancdiff.evaluate import energies as energy_metrics
from ancdiff.evaluate import fluctuations, free_energy, geometry
from ancdiff.evaluate import ramachandran as ramachandran_metrics
from ancdiff.evaluate.comparison import Measurement, Source, absolute, compare
from ancdiff.evaluate.resampling import Sampling, proportion_replicates, weighted_mean_and_spread
from ancdiff.molecules import Ensemble, Molecule

PAIRS = 2000
"""Pairs of conformers whose RMSD is averaged: the mean is then known to 1–2 % of the RMSD's own spread."""


@dataclass(frozen=True, eq=False)
class Energies:
    """Energies of an ensemble that has been scored; ``failed`` of the scored conformers have none."""

    values_kt: np.ndarray
    sampling: Sampling
    failed: int


@dataclass(frozen=True, eq=False)
class EnsembleData:
    """What is measured of an ensemble: its finite conformers, how they were drawn, its energies (None: not scored)."""

    name: str
    ensemble: Ensemble
    sampling: Sampling
    non_finite: int
    energies: Energies | None
    weights: np.ndarray | None = None  # of the conformers, all of which then have an energy; None: all alike
    strain: Energies | None = None  # of all scored conformers, infinite of those that failed; small molecules only


class Features:
    """The estimators of one ensemble, each made once."""

    def __init__(self, system: str, data: EnsembleData, settings: EvaluateSettings) -> None:
        self.data = data
        self._settings = settings
        self._seed = (settings.seed, zlib.crc32(system.encode()), zlib.crc32(data.name.encode()))
        self._sources: dict[str, Source] = {}
        self.residues, phi_psi = ramachandran(data.ensemble)
        self.cells = ramachandran_metrics.bin_indices(phi_psi, settings.ramachandran_bins)
        self.basins = assign_basins(phi_psi)

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator of its own for each purpose, so that one metric's draws do not move another's."""
        return np.random.default_rng((*self._seed, zlib.crc32(purpose.encode())))

    def source(self, kind: str) -> Source:
        """The estimator of a kind (``basins``, ``bonds`` …)."""
        if kind not in self._sources:
            estimate, sampling = getattr(self, f"_{kind}")()
            if self.data.weights is not None:
                estimate = _weighted(estimate, self.data.weights)
            self._sources[kind] = Source(estimate, sampling, self._settings, (*self._seed, zlib.crc32(kind.encode())))
        return self._sources[kind]

    def _basins(self) -> tuple[Callable[..., Any], Sampling]:
        return partial(free_energy.basin_counts, self.basins), self.data.sampling

    def _bonds(self) -> tuple[Callable[..., Any], Sampling]:
        return partial(weighted_mean_and_spread, geometry.bond_lengths_nm(self.data.ensemble)), self.data.sampling

    def _angles(self) -> tuple[Callable[..., Any], Sampling]:
        return partial(weighted_mean_and_spread, geometry.bond_angles_deg(self.data.ensemble)), self.data.sampling

    def _rmsf(self) -> tuple[Callable[..., Any], Sampling]:
        superposed = fluctuations.superpose_on_mean(self.data.ensemble.positions_nm)
        return partial(fluctuations.rmsf, superposed), self.data.sampling

    def _pair_rmsd(self) -> tuple[Callable[..., Any], Sampling]:
        positions = self.data.ensemble.positions_nm
        pairs = fluctuations.draw_pairs(len(positions), PAIRS, self.rng("pairs"))
        rmsd = fluctuations.pair_rmsd(positions, pairs)
        return partial(fluctuations.mean_pair_rmsd, rmsd, pairs), self.data.sampling

    def _clashes(self) -> tuple[Callable[..., Any], Sampling]:
        counts = geometry.clash_counts(self.data.ensemble).astype(np.float64)
        return lambda weights: weights @ counts / weights.sum(axis=1), self.data.sampling

    def _energies(self) -> tuple[Callable[..., Any], Sampling]:
        assert self.data.energies is not None
        return partial(energy_metrics.quantiles, self.data.energies.values_kt), self.data.energies.sampling


def _weighted(estimate: Callable[..., Any], weights: np.ndarray) -> Callable[..., Any]:
    """An estimator of conformers that have weights of their own."""
    return lambda drawn: estimate(drawn * weights)


def measure_system(system: str, ensembles: list[EnsembleData], settings: EvaluateSettings) -> list[Measurement]:
    """All metrics of all ensembles of a system. Draws randomness from ``settings.seed`` and the names alone."""
    measurements = [finite_share(system, data) for data in ensembles if data.weights is None]
    features = {data.name: Features(system, data, settings) for data in ensembles if len(data.ensemble)}
    md = [features[name] for name in MD_ENSEMBLES if name in features]
    size = (
        ramachandran_metrics.matched_size([f.data.sampling for f in features.values() if f.data.weights is None])
        if features
        else 0
    )
    right_hands = geometry.hands(md[0].data.ensemble) if md else None
    for one in features.values():
        row = partial(Measurement, system, one.data.name, n=len(one.data.ensemble))
        measurements += _absolute_basins(one, row)
        measurements += _absolute_geometry(one, row)
        if one.data.weights is None:
            measurements += _stereocentres(one, right_hands, settings, row)
        measurements += absolute_energies(one, settings, row)
        for against in md:
            versus = partial(row, against=against.data.name)
            measurements += _ramachandran(one, against, size, settings, versus)
            measurements += _free_energy_errors(one, against, settings, versus)
            measurements += _geometry_errors(one, against, versus)
            measurements += energy_errors(one, against, versus)
    return measurements


Row = Callable[..., Measurement]


def finite_share(system: str, data: EnsembleData) -> Measurement:
    offered = len(data.ensemble) + data.non_finite
    share = len(data.ensemble) / offered if offered else np.nan
    return Measurement(system, data.name, "conformers_finite", share, offered)


def residue_labels(molecule: Molecule, residues: list[int]) -> list[str]:
    """Labels like ``ALA2``: the residue's name and its number in the molecule, from one."""
    return [f"{molecule.residue_names[r]}{r + 1}" for r in residues]


def _labels(one: Features) -> list[str]:
    return residue_labels(one.data.ensemble.molecule, one.residues)


def _absolute_basins(one: Features, row: Row) -> Iterator[Measurement]:
    if not one.residues:
        return
    counts = one.source("basins")
    shares = absolute(counts, free_energy.populations)
    free = absolute(counts, free_energy.free_energies)
    deltas = absolute(counts, lambda c: free_energy.differences(free_energy.free_energies(c)))
    for r, label in enumerate(_labels(one)):
        for b, basin in enumerate(BASINS):
            yield row("population", residue=label, basin=basin, **shares.item(r, b))
            yield row("free_energy_kt", residue=label, basin=basin, **free.item(r, b))
        for p, pair in enumerate(free_energy.BASIN_PAIRS):
            name = free_energy.pair_name(pair)
            yield row("free_energy_difference_kt", residue=label, basin=name, **deltas.item(r, p))


def _ramachandran(
    one: Features, against: Features, size: int, settings: EvaluateSettings, row: Row
) -> Iterator[Measurement]:
    if not one.residues:
        return
    bins, draws = settings.ramachandran_bins, settings.floor_draws
    floor = ramachandran_metrics.divergence_floor(
        against.cells, bins, sampling=against.data.sampling, size=size, draws=draws, rng=against.rng("divergence floor")
    )
    value, replicates = floor, None
    if one is not against:
        value, replicates = ramachandran_metrics.divergence(
            one.cells, against.cells, bins, sampling=one.data.sampling, against_sampling=against.data.sampling,
            size=size, draws=draws, repeats=settings.bootstrap_repeats, rng=one.rng(f"divergence {against.data.name}"),
            weights=one.data.weights,
        )  # fmt: skip
    for r, label in enumerate(_labels(one)):
        of_residue = None if replicates is None else replicates[:, r]
        yield row(
            "ramachandran_jsd",
            residue=label,
            value=float(value[r]),
            replicates=of_residue,
            floor=float(floor[r]),
            n=size,
        )
    yield row(
        "ramachandran_jsd", value=float(value.mean()), floor=float(floor.mean()), n=size,
        replicates=None if replicates is None else replicates.mean(axis=1),
    )  # fmt: skip


def _free_energy_errors(
    one: Features, against: Features, settings: EvaluateSettings, row: Row
) -> Iterator[Measurement]:
    if not one.residues:
        return
    counts, reference = one.source("basins"), against.source("basins")
    counted = free_energy.counted_basins(reference.value[0], settings.counted_basin_population)
    errors = compare(counts, reference, free_energy.basin_errors)

    def over(reduce: Callable[..., Any]) -> Callable[..., Any]:
        return lambda c, ref: reduce(free_energy.basin_errors(c, ref), counted)

    residues = compare(counts, reference, over(free_energy.residue_errors))
    for r, label in enumerate(_labels(one)):
        for b in np.flatnonzero(counted[r]):
            yield row("free_energy_basin_error_kt", residue=label, basin=BASINS[b], **errors.item(r, int(b)))
        yield row("free_energy_error_kt", residue=label, **residues.item(r))
    yield row("free_energy_error_kt", **compare(counts, reference, over(free_energy.system_error)).item())
    deltas = compare(counts, reference, lambda c, ref: free_energy.difference_error(c, ref, counted))
    yield row("free_energy_difference_error_kt", **deltas.item())


def _absolute_geometry(one: Features, row: Row) -> Iterator[Measurement]:
    molecule = one.data.ensemble.molecule
    if len(molecule.bonds):
        yield row("bond_spread_nm", **absolute(one.source("bonds"), geometry.spread).item())
    if len(geometry.angle_triples(molecule)):
        yield row("angle_spread_deg", **absolute(one.source("angles"), geometry.spread).item())
    yield row("clashes", **absolute(one.source("clashes")).item())
    rmsf = one.source("rmsf")

    def over_atoms(atoms: np.ndarray) -> Callable[..., Any]:
        return lambda values: np.sqrt(np.mean(values[:, atoms] ** 2, axis=1))

    labels = residue_labels(molecule, list(range(len(molecule.residue_names))))
    for r, label in enumerate(labels):
        atoms = np.flatnonzero(molecule.residue_of_atom == r)
        yield row("rmsf_nm", residue=label, **absolute(rmsf, over_atoms(atoms)).item())
    yield row("rmsf_nm", **absolute(rmsf, over_atoms(np.arange(molecule.n_atoms))).item())
    yield row("pair_rmsd_nm", **absolute(one.source("pair_rmsd")).item())


def _geometry_errors(one: Features, against: Features, row: Row) -> Iterator[Measurement]:
    molecule = one.data.ensemble.molecule
    kinds = [
        ("bond", "nm", "bonds", len(molecule.bonds)),
        ("angle", "deg", "angles", len(geometry.angle_triples(molecule))),
    ]
    for kind, unit, source, n in kinds:
        if n:
            mine, theirs = one.source(source), against.source(source)
            yield row(f"{kind}_mean_error_{unit}", **compare(mine, theirs, geometry.mean_error).item())
            yield row(f"{kind}_spread_error_{unit}", **compare(mine, theirs, geometry.spread_error).item())
            yield row(f"{kind}_rms_error_{unit}", **compare(mine, theirs, geometry.rms_error).item())
    mine, theirs = one.source("rmsf"), against.source("rmsf")
    yield row("rmsf_error_nm", **compare(mine, theirs, fluctuations.rmsf_error).item())
    yield row("rmsf_correlation", **compare(mine, theirs, fluctuations.rmsf_correlation).item())


def _stereocentres(
    one: Features, right_hands: np.ndarray | None, settings: EvaluateSettings, row: Row
) -> Iterator[Measurement]:
    if right_hands is None or not len(right_hands):
        return
    right = geometry.right_stereocentres(one.data.ensemble, right_hands)
    replicates = proportion_replicates(
        int(right.sum()), right.size, settings.bootstrap_repeats, one.rng("stereocentres")
    )
    yield row("stereocentres_right", value=float(right.mean()), n=right.size, replicates=replicates)


def absolute_energies(one: Features, settings: EvaluateSettings, row: Row) -> Iterator[Measurement]:
    scored = one.data.energies
    if scored is None:
        return
    asked = scored.failed + len(scored.values_kt)
    if asked and one.data.weights is None:
        replicates = proportion_replicates(scored.failed, asked, settings.bootstrap_repeats, one.rng("failed energies"))
        yield row("energy_failed", value=scored.failed / asked, n=asked, replicates=replicates)
    if len(scored.values_kt):
        row = partial(row, n=len(scored.values_kt))
        source = one.source("energies")
        yield row("median_energy_kt", **absolute(source, energy_metrics.median).item())
        for metric, level in (("energy_p05_kt", 0.05), ("energy_p95_kt", 0.95)):
            yield row(metric, **absolute(source, partial(energy_metrics.quantile, level=level)).item())


def energy_errors(one: Features, against: Features, row: Row) -> Iterator[Measurement]:
    mine, theirs = one.data.energies, against.data.energies
    if mine is None or theirs is None or not len(mine.values_kt) or not len(theirs.values_kt):
        return
    row = partial(row, n=len(mine.values_kt))

    def excess(q: Any, reference: Any) -> Any:
        return energy_metrics.median(q) - energy_metrics.median(reference)

    yield row("median_energy_kt", **compare(one.source("energies"), against.source("energies"), excess).item())
    distance = compare(one.source("energies"), against.source("energies"), energy_metrics.wasserstein)
    yield row("energy_w1_kt", **distance.item())
