"""The metrics of a small molecule's conformers: coverage and matching against the reference, and strain."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from ancdiff.chemistry import best_rmsd_nm, graph_of_molecule
from ancdiff.config import EvaluateSettings
from ancdiff.evaluate import energies as energy_metrics
from ancdiff.evaluate.comparison import Measurement, Source, absolute
from ancdiff.evaluate.coverage import coverage_and_matching
from ancdiff.evaluate.measure import EnsembleData, Features, Row
from ancdiff.evaluate.resampling import bootstrap
from ancdiff.molecules import Ensemble, evenly_spaced

METRICS = ("cov_r", "mat_r_nm", "cov_p", "mat_p_nm")


def measure_conformers(system: str, ensembles: list[EnsembleData], settings: EvaluateSettings) -> Iterator[Measurement]:
    """Coverage, matching and strain of every ensemble of a molecule whose bond orders are known; of others nothing.

    The reference comes in two independent halves (`simulate`: two searches; own MD: its replicas). An ensemble is
    compared with each half, and the two results averaged; the floor is what one half scores against the other. Draws
    from ``settings.seed`` and the names alone.
    """
    drawn = [data for data in ensembles if data.weights is None and len(data.ensemble)]
    if not drawn or drawn[0].ensemble.molecule.bond_orders is None:
        return
    # Where nothing was relaxed every strain is exactly 0, and says nothing.
    if any(data.strain is not None and np.any(data.strain.values_kt) for data in drawn):
        for data in drawn:
            yield from _strain(system, data, settings)
    reference = next((data for data in drawn if data.name == "reference"), None)
    halves = [] if reference is None else _halves(reference, settings)
    if len(halves) < 2:
        return
    graphs = [_graph(half.ensemble) for half in halves]
    between = best_rmsd_nm(*graphs)
    threshold_nm = settings.coverage_threshold_nm
    floors = [coverage_and_matching(table, threshold_nm) for table in (between, between.T)]
    floor = {name: float(np.mean([one[name] for one in floors])) for name in METRICS}
    for data in drawn:
        row = partial(Measurement, system, data.name, against="reference")
        if data is reference:
            for name in METRICS:
                yield row(name, value=floor[name], floor=floor[name], n=len(data.ensemble))
            continue
        few = _thinned(data, settings.coverage_conformers)
        values, replicates = _compared(few, halves, graphs, settings, Features(system, data, settings).rng("coverage"))
        for name in METRICS:
            yield row(name, value=values[name], floor=floor[name], replicates=replicates[name], n=len(few.ensemble))


def _compared(
    data: EnsembleData,
    halves: list[EnsembleData],
    graphs: list[Any],
    settings: EvaluateSettings,
    rng: np.random.Generator,
) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " repeats"]]]:
    """Coverage and matching against each half, averaged; and their bootstrap, both sides resampled."""
    mine = _graph(data.ensemble)
    tables = [best_rmsd_nm(mine, graph) for graph in graphs]
    repeats, threshold_nm = settings.bootstrap_repeats, settings.coverage_threshold_nm
    found = [coverage_and_matching(table, threshold_nm) for table in tables]
    weights = bootstrap(lambda drawn: drawn, data.sampling, repeats, rng)
    again = [bootstrap(lambda drawn: drawn, half.sampling, repeats, rng) for half in halves]
    resampled = [
        [
            coverage_and_matching(table, threshold_nm, generated_weights=w, reference_weights=v)
            for table, v in zip(tables, of_halves, strict=True)
        ]
        for w, *of_halves in zip(weights, *again, strict=True)
    ]
    return (
        {name: float(np.mean([one[name] for one in found])) for name in METRICS},
        {name: np.array([np.mean([one[name] for one in both]) for both in resampled]) for name in METRICS},
    )


def _halves(reference: EnsembleData, settings: EvaluateSettings) -> list[EnsembleData]:
    """The two independent halves of a reference; fewer where one is empty."""
    halves = reference.sampling.halves
    if halves is None:
        return []
    parts = [np.flatnonzero(halves == half) for half in np.unique(halves)]
    return [_thinned(_taken(reference, part), settings.coverage_conformers) for part in parts]


def _thinned(data: EnsembleData, wanted: int) -> EnsembleData:
    """Evenly spaced conformers, so many at most."""
    n = len(data.ensemble)
    return data if n <= wanted else _taken(data, evenly_spaced(n, wanted))


def _taken(data: EnsembleData, chosen: np.ndarray) -> EnsembleData:
    ensemble = Ensemble(data.ensemble.molecule, data.ensemble.positions_nm[chosen])
    return replace(data, ensemble=ensemble, sampling=data.sampling.take(chosen))


def _graph(ensemble: Ensemble) -> Any:
    return graph_of_molecule(ensemble.molecule, *ensemble.positions_nm)


def _strain(system: str, data: EnsembleData, settings: EvaluateSettings) -> Iterator[Measurement]:
    """Median strain; a conformer that has none, as it failed, counts as more strained than all others.

    Where half of them failed there is no median, and the row says so.
    """
    strain = data.strain
    if strain is None or not len(strain.values_kt):
        return
    rng = Features(system, data, settings).rng("strain")
    source = Source(
        partial(energy_metrics.quantiles, strain.values_kt),
        strain.sampling,
        settings,
        (settings.seed, int(rng.integers(2**31))),
    )
    row: Row = partial(Measurement, system, data.name, n=len(strain.values_kt))
    with np.errstate(invalid="ignore"):  # of two infinite ones in the bootstrap
        median = absolute(source, energy_metrics.median).item()
    if np.isfinite(median["value"]):
        yield row("median_strain_kt", **median)
    else:
        yield row("median_strain_kt", value=np.nan, status="half_failed")
