"""evaluate: every model of every round and every MD data set, against the reference and the training MD.

Writes ``evaluate/metrics.parquet`` (one row per system, ensemble, metric …), ``evaluate/summary.parquet`` (one row per
ensemble, averaged over systems) and ``evaluate/seeds.parquet`` (one row per model, system and headline metric, averaged
over seeds), each with a TSV beside it to read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ancdiff import corridor
from ancdiff.artifacts import read_ensemble, read_table, write_json, write_table
from ancdiff.config import Config, EvaluateSettings, StageConfig
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoiser.store import load_denoiser
from ancdiff.errors import InputError
from ancdiff.evaluate import compounds
from ancdiff.evaluate.catalogue import HEADLINE, METRICS
from ancdiff.evaluate.comparison import Measurement, table
from ancdiff.evaluate.conformers import measure_conformers
from ancdiff.evaluate.energies import reduced_energies, reduced_strain
from ancdiff.evaluate.measure import Energies, EnsembleData, measure_system
from ancdiff.evaluate.particles import measure_particles
from ancdiff.evaluate.resampling import Sampling, independent, interval, md_blocks
from ancdiff.evaluate.reweighting import Reweighted, diagnostics, reweight
from ancdiff.evaluate.seeds import over_seeds
from ancdiff.molecules import Ensemble
from ancdiff.origins import is_particles
from ancdiff.provenance import made_by
from ancdiff.units import thermal_energy_kj_mol


def run(settings: StageConfig, *, results: Path) -> None:
    """Measure every ensemble of every system. Reads and writes the disk; randomness from ``evaluate.seed`` alone.

    Raises:
        InputError: an ensemble is missing or unreadable, or ``dataset/split.parquet`` does not fit the MD.
    """
    if any(system.compounds for system in settings.systems.values()):
        compounds.run(settings, results=results)
        return
    layout = corridor.Layout(results)
    ensembles = ensemble_names(settings)
    kt = thermal_energy_kj_mol(settings.forcefield.temperature_kelvin)
    split_path = layout.root / "dataset" / "split.parquet"
    split = read_table(split_path)
    measurements: list[Measurement] = []
    parents = [split_path]
    networks = _networks(layout, settings)
    for system in tqdm(settings.systems, desc="evaluate", unit="system", disable=None):
        data = []
        for ensemble in ensembles:
            path = layout.ensemble(ensemble, system)
            if ensemble == "reference" and not path.is_file():
                continue  # the user's own MD may have no reference; metrics against it are then left out
            data.append(_read(layout, system, ensemble, split, kt, settings.evaluate))
            parents += [p for p in (path, layout.energies(ensemble, system)) if p.is_file()]
        weighted = list(_reweighted(layout, system, ensembles, settings.forcefield.temperature_kelvin))
        parents += [layout.log_densities(name, system) for name, _ in weighted]
        data += [one.data for _, one in weighted if one.data is not None]
        if is_particles(settings.systems[system]):
            measurements += measure_particles(system, data, settings, networks)
        else:
            measurements += measure_system(system, data, settings.evaluate)
            measurements += measure_conformers(system, data, settings.evaluate)
        for name, one in weighted:
            drawn = {(m.metric, m.against) for m in measurements if (m.system, m.ensemble) == (system, name)}
            measurements += diagnostics(system, one, drawn)
    folder = layout.root / "evaluate"
    record = made_by("evaluate", settings=settings.as_dict(), seed=settings.evaluate.seed, parents=parents)
    write_json(folder / "metrics.json", record)
    write_table(folder / "summary.parquet", summarise(measurements, _measured(measurements, ensembles)), tsv=True)
    write_table(folder / "seeds.parquet", over_seeds(measurements), tsv=True)
    write_table(folder / "metrics.parquet", with_models(table(measurements), settings), tsv=True)


def _networks(layout: corridor.Layout, settings: StageConfig) -> dict[str, Denoiser]:
    """Every model of a run that has systems of particles, to be tried for equivariance."""
    if not any(is_particles(system) for system in settings.systems.values()):
        return {}
    names = corridor.models(_names_config(settings))
    return {name: load_denoiser(layout.model(name))[0] for name in names}


def ensemble_names(settings: StageConfig) -> list[str]:
    """Every ensemble of a run: the MD data sets, then the models in the order in which they come to be."""
    return [*corridor.MD_ENSEMBLES, *corridor.models(_names_config(settings))]


def _measured(measurements: list[Measurement], ensembles: list[str]) -> list[str]:
    """The ensembles, each followed by itself reweighted where it has been."""
    names = {m.ensemble for m in measurements}
    own = [name for name in ensembles if name not in corridor.MD_ENSEMBLES]
    weighted = {name: corridor.reweighted(name) for name in own if corridor.reweighted(name) in names}
    return [part for name in ensembles for part in (name, weighted.get(name)) if part is not None]


def _reweighted(
    layout: corridor.Layout, system: str, ensembles: list[str], temperature_kelvin: float
) -> Iterator[tuple[str, Reweighted]]:
    """The models whose samples have log-densities and energies, with their samples reweighted."""
    for name in ensembles:
        if name in corridor.MD_ENSEMBLES:
            continue
        densities, energies = layout.log_densities(name, system), layout.energies(name, system)
        if densities.is_file() and energies.is_file():
            ensemble, table = read_ensemble(layout.ensemble(name, system), name=system), read_table(densities)
            if len(table) != len(ensemble):
                raise InputError(
                    f"there are {len(table)} log-densities of {len(ensemble)} conformers",
                    where=str(densities),
                    fix="sample again with: ancdiff sample",
                )
            yield name, reweight(name, ensemble, read_table(energies), table, temperature_kelvin)


def with_models(metrics: pd.DataFrame, settings: StageConfig) -> pd.DataFrame:
    """The table of metrics with columns ``model`` (the ensemble without its seed) and ``seed`` (none for MD)."""
    models = {name: name for name in corridor.MD_ENSEMBLES}
    seeds: dict[str, int] = {}
    for name in corridor.models(_names_config(settings)):
        for one in (name, corridor.reweighted(name)):
            models[one] = corridor.without_seed(one)
            seeds[one] = corridor.seed_of(one, _names_config(settings))
    return metrics.assign(model=metrics["ensemble"].map(models), seed=metrics["ensemble"].map(seeds).astype("Int64"))


def _names_config(settings: StageConfig) -> Config:
    """What the names of models follow from."""
    return Config(run=settings.run, align=settings.align)


def summarise(measurements: list[Measurement], ensembles: list[str]) -> pd.DataFrame:
    """One row per ensemble: each headline metric averaged over systems, with its interval and floor.

    Columns ``<metric>``, ``<metric>_low``, ``<metric>_high``, ``<metric>_floor`` for each of `HEADLINE` that this run
    measures, and ``systems`` (how many are averaged at most). Systems are resampled independently, so replicates are
    averaged too.
    """
    measured = {(m.metric, m.against) for m in measurements if not m.residue and not m.basin}
    rows = []
    for ensemble in ensembles:
        mine = [m for m in measurements if m.ensemble == ensemble and not m.residue and not m.basin]
        row: dict[str, Any] = {"ensemble": ensemble, "systems": len({m.system for m in mine})}
        for column, (metric, against) in HEADLINE.items():
            if (metric, against) in measured:
                row |= _averaged(column, [m for m in mine if m.metric == metric and m.against == against])
        rows.append(row)
    return pd.DataFrame(rows)


def _averaged(column: str, chosen: list[Measurement]) -> dict[str, float]:
    if not chosen:
        return dict.fromkeys((column, f"{column}_low", f"{column}_high", f"{column}_floor"), np.nan)
    value = float(np.mean([m.value for m in chosen]))
    replicates = [m.replicates for m in chosen if m.replicates is not None]
    metric = METRICS[chosen[0].metric]
    averaged = np.mean(replicates, axis=0) if len(replicates) == len(chosen) else None
    low, high = interval(value, averaged, lower=metric.lower, upper=metric.upper)
    floor = float(np.mean([m.floor for m in chosen]))
    return {column: value, f"{column}_low": low, f"{column}_high": high, f"{column}_floor": floor}


def _read(
    layout: corridor.Layout, system: str, name: str, split: pd.DataFrame, kt: float, settings: EvaluateSettings
) -> EnsembleData:
    """An ensemble with its sampling and energies; conformers that are not finite are set aside and counted."""
    path = layout.ensemble(name, system)
    ensemble = read_ensemble(path, name=system)
    sampling = independent(len(ensemble))
    if name in corridor.MD_ENSEMBLES:
        rows = split[(split["system"] == system) & (split["md"] == name)].sort_values("frame")
        if not np.array_equal(rows["frame"], np.arange(len(ensemble))):
            raise InputError(
                f"the split has {len(rows)} frames of this MD, its trajectory {len(ensemble)}",
                where=f"{layout.root / 'dataset' / 'split.parquet'} and {path}",
                fix="make both again with: ancdiff dataset",
            )
        sampling = Sampling(md_blocks(rows["replica"].to_numpy(), settings.bootstrap_blocks), rows["half"].to_numpy())
    finite = np.flatnonzero(np.isfinite(ensemble.positions_nm).all(axis=(1, 2)))
    kept = Ensemble(ensemble.molecule, ensemble.positions_nm[finite])
    energies = _read_energies(layout.energies(name, system), sampling, kt)
    strain = None
    if energies is not None and ensemble.molecule.bond_orders is not None:
        table = read_table(layout.energies(name, system))
        asked = sampling.take(table["conformer"].to_numpy(dtype=np.int64))
        strain = Energies(reduced_strain(table, kt), asked, energies.failed)
    return EnsembleData(name, kept, sampling.take(finite), len(ensemble) - len(finite), energies, strain=strain)


def _read_energies(path: Path, sampling: Sampling, kt: float) -> Energies | None:
    """Energies in kT, or None where the ensemble has not been scored."""
    if not path.is_file():
        return None
    values, conformers, failed = reduced_energies(read_table(path), kt)
    if len(conformers) and (conformers.min() < 0 or conformers.max() >= len(sampling)):
        raise InputError(
            f"conformer {conformers.max()} was scored, but the ensemble has {len(sampling)} conformers",
            where=str(path),
            fix="score the ensemble again with: ancdiff score",
        )
    return Energies(values, sampling.take(conformers), failed)
