"""The metrics of systems of identical particles: shapes, distances, wells, energies, the models' equivariance."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ancdiff.config import EvaluateSettings, StageConfig, SystemSettings
from ancdiff.corridor import MD_ENSEMBLES
from ancdiff.denoiser.network import Denoiser
from ancdiff.evaluate import free_energy, shapes
from ancdiff.evaluate.comparison import Measurement, absolute, compare
from ancdiff.evaluate.equivariance import equivariance_error
from ancdiff.evaluate.measure import EnsembleData, Features, Row, absolute_energies, energy_errors, finite_share
from ancdiff.evaluate.resampling import Sampling, Weights
from ancdiff.particles import REDUCED_KELVIN
from ancdiff.particles.potentials import Exact, exact_of_pair, potential_of

_BINS = 400
"""Bins of the histogram of pair distances; W₁ is known to a small part of a bin."""
_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


class ParticleFeatures(Features):
    """The estimators of one ensemble of particles, each made once."""

    def __init__(self, name: str, data: EnsembleData, system: SystemSettings, settings: EvaluateSettings) -> None:
        super().__init__(name, data, settings)
        self.potential = None if system.exact is None else potential_of(system.exact)
        self.length_nm = system.exact.length_nm if system.exact is not None else 1.0
        i, j = np.triu_indices(data.ensemble.molecule.n_atoms, k=1)
        positions = data.ensemble.positions_nm.astype(np.float64)
        self.distances_nm = np.linalg.norm(positions[:, i] - positions[:, j], axis=-1)
        self.edges_nm = np.zeros(2)  # set once all ensembles are known

    def _pair_distances(self) -> tuple[Callable[..., Any], Sampling]:
        bins = np.clip(np.searchsorted(self.edges_nm, self.distances_nm) - 1, 0, _BINS - 1)
        counts = np.zeros((len(bins), _BINS))
        np.add.at(counts, (np.arange(len(bins))[:, None], bins), 1.0)

        def cumulative(weights: Weights) -> Float[np.ndarray, "repeats bins"]:
            summed = np.cumsum(weights @ counts, axis=1)
            return summed / summed[:, -1:]

        return cumulative, self.data.sampling

    def _wells(self) -> tuple[Callable[..., Any], Sampling]:
        assert self.potential is not None
        wells = self.potential.wells(self.data.ensemble.positions_nm.astype(np.float64) / self.length_nm)
        members = np.eye(len(self.potential.well_names))[wells]
        return lambda weights: weights @ members, self.data.sampling

    def _mean_energy(self) -> tuple[Callable[..., Any], Sampling]:
        assert self.data.energies is not None
        values = self.data.energies.values_kt
        return lambda weights: weights @ values / weights.sum(axis=1), self.data.energies.sampling


def measure_particles(
    name: str, ensembles: list[EnsembleData], stage: StageConfig, networks: Mapping[str, Denoiser]
) -> list[Measurement]:
    """All metrics of all ensembles of a system of particles; reads sections systems, forcefield, evaluate.

    Draws from ``evaluate.seed`` and the names alone.
    """
    settings, system, kelvin = stage.evaluate, stage.systems[name], stage.forcefield.temperature_kelvin
    measurements = [finite_share(name, data) for data in ensembles if data.weights is None]
    features = {d.name: ParticleFeatures(name, d, system, settings) for d in ensembles if len(d.ensemble)}
    md = [features[kind] for kind in MD_ENSEMBLES if kind in features]
    if not md:
        return measurements
    farthest = max(float(one.distances_nm.max()) for one in md)  # what a model throws further falls into the last bin
    for one in features.values():
        one.edges_nm = np.linspace(0.0, 1.5 * farthest, _BINS + 1)
    potential = md[0].potential
    exact = None if potential is None else exact_of_pair(potential, kelvin / REDUCED_KELVIN)
    floors: dict[str, Any] = {}
    for one in features.values():
        row = partial(Measurement, name, one.data.name, n=len(one.data.ensemble))
        measurements += absolute_energies(one, settings, row)
        measurements += _wells(one, exact, row)
        measurements += _mean_energies(one, None, exact, kelvin, row)
        for against in md:
            versus = partial(row, against=against.data.name)
            measurements += _pair_distances(one, against, versus)
            measurements += _well_errors(one, against, settings, versus)
            measurements += energy_errors(one, against, versus)
            measurements += _mean_energies(one, against, None, kelvin, versus)
        if "reference" in features and one.data.weights is None:
            versus = partial(row, against="reference")
            measurements += _shapes(one, features["reference"], floors, settings, versus)
        if one.data.name in networks:
            measurements += _equivariance(networks[one.data.name], md[-1], settings, row)
    return measurements


def _pair_distances(one: ParticleFeatures, against: ParticleFeatures, row: Row) -> Iterator[Measurement]:
    width = float(one.edges_nm[1] - one.edges_nm[0])
    distance = compare(
        one.source("pair_distances"),
        against.source("pair_distances"),
        lambda mine, theirs: width * np.abs(mine - theirs).sum(axis=-1),
    )
    yield row("pair_distance_w1_nm", **distance.item())


def _has_wells(one: ParticleFeatures) -> bool:
    return one.potential is not None and len(one.potential.well_names) > 1


def _wells(one: ParticleFeatures, exact: Exact | None, row: Row) -> Iterator[Measurement]:
    if not _has_wells(one) or one.potential is None:
        return
    counts = one.source("wells")
    shares, free = absolute(counts, free_energy.populations), absolute(counts, free_energy.free_energies)
    for w, well in enumerate(one.potential.well_names):
        yield row("population", basin=well, **shares.item(w))
        yield row("free_energy_kt", basin=well, **free.item(w))
    if exact is None:
        return
    truth = np.array(exact.populations)
    n = len(one.data.sampling)
    distance = absolute(counts, lambda c: _total_variation(c, truth))
    # The floor: what as many independent draws from the exact density would miss by.
    floor = float(np.sqrt(truth[0] * truth[1] / n))
    yield row("population_distance", against="exact", **distance.item() | {"floor": floor})
    exact_delta = float(np.log(truth[1] / truth[0]))
    errors = absolute(counts, lambda c: _delta(free_energy.free_energies(c)) - exact_delta)
    floor = float(np.sqrt(1 / (n * truth[0]) + 1 / (n * truth[1])))
    yield row("free_energy_difference_kt", against="exact", basin="short-long", **errors.item() | {"floor": floor})
    sizes = absolute(counts, lambda c: np.abs(_delta(free_energy.free_energies(c)) - exact_delta))
    yield row("free_energy_difference_error_kt", against="exact", **sizes.item() | {"floor": floor})


def _delta(free: np.ndarray) -> np.ndarray:
    """F of the first well less F of the second."""
    return free[..., 0] - free[..., 1]


def _total_variation(counts: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """½ Σ_w |P_w − P_w^exact| with P_w = n_w/N."""
    return 0.5 * np.abs(counts / counts.sum(axis=-1, keepdims=True) - truth).sum(axis=-1)


def _well_errors(
    one: ParticleFeatures, against: ParticleFeatures, settings: EvaluateSettings, row: Row
) -> Iterator[Measurement]:
    if not _has_wells(one):
        return
    counts, reference = one.source("wells"), against.source("wells")
    counted = free_energy.counted_basins(reference.value[0][None], settings.counted_basin_population)[0]

    def distance(c: Any, ref: Any) -> Any:
        return _total_variation(c, ref / ref.sum(axis=-1, keepdims=True))

    def error(c: Any, ref: Any) -> Any:
        difference = free_energy.free_energies(c) - free_energy.free_energies(ref)
        return np.sqrt(np.mean(difference[..., counted] ** 2, axis=-1))

    yield row("population_distance", **compare(counts, reference, distance).item())
    yield row("free_energy_error_kt", **compare(counts, reference, error).item())


def _mean_energies(
    one: ParticleFeatures, against: ParticleFeatures | None, exact: Exact | None, kelvin: float, row: Row
) -> Iterator[Measurement]:
    if one.data.energies is None or not len(one.data.energies.values_kt):
        return
    row = partial(row, n=len(one.data.energies.values_kt))
    mine = one.source("mean_energy")
    if against is not None:
        if against.data.energies is not None and len(against.data.energies.values_kt):
            yield row("mean_energy_kt", **compare(mine, against.source("mean_energy"), np.subtract).item())
        return
    yield row("mean_energy_kt", **absolute(mine).item())
    if exact is not None:
        reduced = kelvin / REDUCED_KELVIN
        floor = exact.energy_spread / reduced / np.sqrt(len(one.data.energies.values_kt))
        difference = absolute(mine, lambda mean: mean - exact.mean_energy / reduced)
        yield row("mean_energy_kt", against="exact", **difference.item() | {"floor": float(floor)})


def _shapes(
    one: ParticleFeatures, reference: ParticleFeatures, floors: dict[str, Any], settings: EvaluateSettings, row: Row
) -> Iterator[Measurement]:
    """Distance of conformers to the nearest of either half of the reference; the floor: of one half to the other."""
    halves = reference.data.sampling.halves
    if halves is None or len(np.unique(halves)) < 2:
        return
    held_out = [reference.data.ensemble.positions_nm[halves == h] for h in (0, 1)]
    n = min(settings.shape_conformers, len(one.data.ensemble), *map(len, held_out))
    key = f"shapes {n}"
    if key not in floors:
        rng = reference.rng(key)
        floors[key] = [_to_nearest(held_out[h], held_out[1 - h], n, settings, rng) for h in (0, 1)]
    floor = np.concatenate(floors[key], axis=1)
    if one is reference:
        found, replicates = floor, None
    else:
        rng = one.rng(key)
        found = np.concatenate([_to_nearest(one.data.ensemble.positions_nm, h, n, settings, rng) for h in held_out], 1)
        drawn = rng.integers(found.shape[1], size=(settings.bootstrap_repeats, found.shape[1]))
        replicates = found[:, drawn].mean(axis=-1)
    for k, metric in enumerate(("chamfer_nm", "shape_rmsd_nm")):
        mine = None if replicates is None else replicates[k]
        yield row(metric, value=float(found[k].mean()), replicates=mine, floor=float(floor[k].mean()), n=n)


def _to_nearest(
    positions_nm: np.ndarray, among_nm: np.ndarray, n: int, settings: EvaluateSettings, rng: np.random.Generator
) -> Float[np.ndarray, "2 chosen"]:
    """Chamfer distance and RMSD of ``n`` conformers, drawn from ``rng``, to the nearest of others."""
    chosen = rng.permutation(len(positions_nm))[:n]
    return np.stack(shapes.nearest(positions_nm[chosen], among_nm, settings.shape_candidates, rng))


def _equivariance(
    denoiser: Denoiser, data: ParticleFeatures, settings: EvaluateSettings, row: Row
) -> Iterator[Measurement]:
    for name, dtype in _PRECISIONS.items():
        generator = torch.Generator().manual_seed(settings.seed)
        error = equivariance_error(denoiser, data.data.ensemble, dtype, generator)
        yield row(f"equivariance_error_{name}", value=error)
