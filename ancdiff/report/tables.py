"""The report's tables: which metrics, in what words, how many digits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ancdiff.corridor import MD_ENSEMBLES, MEAN_OVER_SYSTEMS, PRETRAINED, without_seed
from ancdiff.origins import describe
from ancdiff.report.collect import Run, is_md, words, words_with_seed
from ancdiff.report.style import look


@dataclass(frozen=True)
class Column:
    """A metric as a column: its headline name, where it stands in the metrics, title, unit, words and digits."""

    key: str
    metric: str
    against: str
    title: str
    unit: str
    words: str
    form: str = "{:.2f}"
    scale: float = 1.0


COLUMNS = (
    Column(
        "free_energy_error_kt", "free_energy_error_kt", "reference", "Free-energy error", "kT, to reference",
        "F = −ln(population) of each Ramachandran basin of each residue; RMS difference from the reference MD.",
    ),
    Column(
        "ramachandran_jsd", "ramachandran_jsd", "reference", "Map divergence", "nats, to reference",
        "Jensen–Shannon divergence of the Ramachandran (φ, ψ) maps: 0 for the same, 0.69 for maps that share nothing.",
        "{:.3f}",
    ),
    Column(
        "ramachandran_jsd_training", "ramachandran_jsd", "training", "Map divergence", "nats, to training",
        "The same against what the models learned from: a good pretrained model is near its floor here.", "{:.3f}",
    ),
    Column(
        "stereocentres_right", "stereocentres_right", "", "Stereocentres right", "%",
        "Share of stereocentres with the hand that the MD has (L for amino acids).", "{:.2f}", 100.0,
    ),
    Column(
        "bond_rms_error_nm", "bond_rms_error_nm", "reference", "Bond-length error", "pm, to reference",
        "RMS over bonds of the differences of mean length and of spread, in picometres (1 pm = 0.001 nm).", "{:.2f}",
        1000.0,
    ),
    Column(
        "angle_rms_error_deg", "angle_rms_error_deg", "reference", "Bond-angle error", "°, to reference",
        "RMS over bond angles of the differences of mean and of spread.",
    ),
    Column(
        "clashes", "clashes", "", "Clashes", "per conformer",
        "Pairs of heavy atoms three or more bonds apart, nearer than 0.6 of the sum of their van der Waals radii.",
        "{:.3f}",
    ),
    Column(
        "median_energy_kt", "median_energy_kt", "reference", "Median energy", "kT above reference",
        "Median force-field energy of conformers (relaxed as score.relax says), less that of the reference MD.",
        "{:+.2f}",
    ),
    Column(
        "energy_w1_kt", "energy_w1_kt", "reference", "Energy distance", "kT, to reference",
        "Wasserstein-1 distance between the two distributions of energies.",
    ),
)  # fmt: skip
CONFORMER_COLUMNS = (
    Column(
        "cov_r", "cov_r", "reference", "COV-R", "%, to reference",
        "Share of the reference conformers that one of the ensemble comes near: RMSD without hydrogens, least over the "
        "molecule's symmetries, within evaluate.coverage_threshold_nm.", "{:.1f}", 100.0,
    ),
    Column(
        "mat_r_nm", "mat_r_nm", "reference", "MAT-R", "Å, to reference",
        "Mean over reference conformers of the RMSD to the nearest one of the ensemble.", "{:.3f}", 10.0,
    ),
    Column(
        "cov_p", "cov_p", "reference", "COV-P", "%, to reference",
        "Share of the ensemble's conformers that come near a reference one.", "{:.1f}", 100.0,
    ),
    Column(
        "mat_p_nm", "mat_p_nm", "reference", "MAT-P", "Å, to reference",
        "Mean over the ensemble's conformers of the RMSD to the nearest reference one.", "{:.3f}", 10.0,
    ),
    Column(
        "median_strain_kt", "median_strain_kt", "", "Strain", "kT, median",
        "Energy that a conformer loses when it is relaxed into the nearest minimum; failed ones count as the most "
        "strained.", "{:.1f}",
    ),
)  # fmt: skip
PARTICLE_COLUMNS = (
    Column(
        "chamfer_nm", "chamfer_nm", "reference", "Chamfer distance", "pm, to nearest",
        "Mean distance of a point to the nearest point of the nearest held-out cloud, after superposition.", "{:.1f}",
        1000.0,
    ),
    Column(
        "shape_rmsd_nm", "shape_rmsd_nm", "reference", "RMSD of shapes", "pm, to nearest",
        "RMSD to the nearest held-out cloud after the best rotation and permutation.", "{:.1f}", 1000.0,
    ),
    Column(
        "pair_distance_w1_nm", "pair_distance_w1_nm", "reference", "Pair distances", "pm, to reference",
        "Wasserstein-1 distance between the distributions of the distances of all pairs of particles.", "{:.2f}",
        1000.0,
    ),
    Column(
        "population_distance", "population_distance", "reference", "Populations", "%, to reference",
        "Half the sum of the differences of the wells' populations.", "{:.2f}", 100.0,
    ),
    Column(
        "population_distance_exact", "population_distance", "exact", "Populations", "%, to exact",
        "The same against quadrature, where there is one (the floor: as many exact draws).", "{:.2f}", 100.0,
    ),
    Column(
        "free_energy_difference_error_exact_kt", "free_energy_difference_error_kt", "exact", "Free-energy difference",
        "kT, to exact", "Size of the error of the wells' free-energy difference, where quadrature gives it.", "{:.3f}",
    ),
    Column(
        "mean_energy_exact_kt", "mean_energy_kt", "exact", "Mean energy", "kT above exact",
        "Mean energy less that of quadrature; it rises where a model leaves the support.", "{:+.3f}",
    ),
    Column(
        "mean_energy_kt", "mean_energy_kt", "reference", "Mean energy", "kT above reference",
        "The same against the reference.", "{:+.3f}",
    ),
    Column(
        "equivariance_error_float32", "equivariance_error_float32", "", "Equivariance error", "float32",
        "Largest relative error of the model's output over random turns, shifts and permutations of its input.",
        "{:.1e}",
    ),
    Column(
        "equivariance_error_float64", "equivariance_error_float64", "", "Equivariance error", "float64",
        "The same in double precision.", "{:.1e}",
    ),
)  # fmt: skip
MORE_COLUMNS = (
    Column("energy_failed", "energy_failed", "", "Failed energies", "%", "", "{:.2f}", 100.0),
    Column("rmsf_error_nm", "rmsf_error_nm", "reference", "RMSF error", "pm, to reference", "", "{:.1f}", 1000.0),
    Column("pair_rmsd_nm", "pair_rmsd_nm", "", "Pairwise RMSD", "nm", "", "{:.3f}"),
)
# Shown where a run has reweighted ensembles.
WEIGHT_COLUMNS = (
    Column("effective_share", "effective_share", "", "Effective samples", "% of the samples", "", "{:.1f}", 100.0),
    Column("pareto_k", "pareto_k", "", "Pareto k", "tail of the weights", "", "{:.2f}"),
)


def number(value: float, column: Column) -> str:
    """A number as a person reads it; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    scaled = value * column.scale
    text = f"{scaled:.2g}" if abs(scaled) >= 1e5 else column.form.format(scaled)
    return text.replace("-", "−")


def span(low: float, high: float, column: Column) -> str:
    """An interval, or nothing."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    return f"{number(low, column)}…{number(high, column)}"


def headline(run: Run) -> dict[str, Any]:
    """One row per ensemble averaged over systems, the floor last."""
    order = ["training", *run.with_reweighted(run.models), "reference"]
    columns = _measured(run, (*CONFORMER_COLUMNS, *COLUMNS, *PARTICLE_COLUMNS))
    rows = [
        _row(name, [_summary_cell(run, name, c) for c in columns]) | {"name": words_with_seed(name)}
        for name in order
        if name in run.summary.index
    ]
    # All models have as many conformers, so that the pretrained one's floor is theirs too.
    cells = [{"text": number(run.average(PRETRAINED, f"{c.key}_floor"), c), "small": ""} for c in columns]
    return {"columns": columns, "rows": [*rows, {"name": "floor", "kind": "floor", "colour": "", "cells": cells}]}


def over_seeds(run: Run) -> dict[str, Any] | None:
    """Mean and interval over seeds of every model: averaged over systems, then of each; None in a run with one seed."""
    if len(run.seeds) < 2:
        return None
    columns = _measured(run, (*CONFORMER_COLUMNS, *COLUMNS, *PARTICLE_COLUMNS))
    lines = list(dict.fromkeys(without_seed(model) for model in run.with_reweighted(run.models)))
    groups = []
    for system in (MEAN_OVER_SYSTEMS, *run.pictured_systems):
        rows = [_row(name, [_seeds_cell(run, name, system, c) for c in columns]) for name in lines]
        cells = [{"text": number(run.over(PRETRAINED, system, f"{c.key}_floor"), c), "small": ""} for c in columns]
        rows.append({"name": "floor", "kind": "floor", "colour": "", "cells": cells})
        groups.append({"name": system, "rows": rows})
    return {"columns": columns, "mean": groups[0], "groups": groups[1:]}


def per_system(run: Run) -> dict[str, Any]:
    """The shown ensembles of each system."""
    columns = _measured(run, (*CONFORMER_COLUMNS, *COLUMNS, *MORE_COLUMNS, *WEIGHT_COLUMNS, *PARTICLE_COLUMNS))
    tables = {(c.metric, c.against): _by_system(run, c) for c in columns}
    groups = []
    for system in run.pictured_systems:
        settings, rows = run.settings.systems[system], []
        for name in run.with_reweighted(run.shown):
            cells = [_metric_cell(tables[c.metric, c.against].get((system, name)), c) for c in columns]
            rows.append(_row(name, cells))
        held_out = ", never seen in training" if settings.split == "test" else ""
        groups.append({"name": f"{system} ({describe(settings)}{held_out})", "rows": rows})
    return {"columns": columns, "groups": groups}


def _measured(run: Run, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The columns that have a number in this run: peptides and particles are measured by different ones."""
    measured = set(zip(run.metrics["metric"], run.metrics["against"], strict=True))
    return tuple(c for c in columns if (c.metric, c.against) in measured)


def _by_system(run: Run, column: Column) -> dict[tuple[str, str], Any]:
    rows = run.select(column.metric, against=column.against)
    return {(row.system, row.ensemble): row for row in list[Any](rows.itertuples())}


def _row(name: str, cells: list[dict[str, str]]) -> dict[str, Any]:
    kind = "md" if is_md(name) else "model"
    return {"name": words(name), "kind": kind, "colour": look(name).colour, "cells": cells}


def _summary_cell(run: Run, name: str, column: Column) -> dict[str, str]:
    value, low, high = (run.average(name, column.key + end) for end in ("", "_low", "_high"))
    return {"text": number(value, column), "small": span(low, high, column)}


def _seeds_cell(run: Run, name: str, system: str, column: Column) -> dict[str, str]:
    value, low, high = (run.over(name, system, column.key + end) for end in ("", "_low", "_high"))
    return {"text": number(value, column), "small": span(low, high, column)}


def _metric_cell(row: Any, column: Column) -> dict[str, str]:
    if row is None:
        return {"text": "–", "small": ""}
    return {"text": number(row.value, column), "small": span(row.low, row.high, column)}


def systems(run: Run) -> list[dict[str, str]]:
    """What each pictured system is, and how many conformers each ensemble has."""
    rows = []
    for name in run.pictured_systems:
        settings = run.settings.systems[name]
        sizes = {e: run.ensemble(e, name) for e in (*MD_ENSEMBLES, run.pretrained)}
        rows.append(
            {
                "name": name,
                "molecule": describe(settings),
                "split": "yes" if settings.split == "train" else "no (test)",
                "training": _frames(sizes["training"], "frames"),
                "reference": _frames(sizes["reference"], "frames"),
                "samples": _frames(sizes[run.pretrained], "conformers"),
            }
        )
    return rows


def _frames(ensemble: Any, unit: str) -> str:
    return "none" if ensemble is None else f"{len(ensemble):,} {unit}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 0.4 s, 61 s, 12.5 min, 3.1 h."""
    if not np.isfinite(seconds):
        return "–"
    steps: list[tuple[float, Callable[[float], str]]] = [
        (10, lambda s: f"{s:.1f} s"),
        (120, lambda s: f"{s:.0f} s"),
        (7200, lambda s: f"{s / 60:.1f} min"),
    ]
    return next((form(seconds) for limit, form in steps if seconds < limit), f"{seconds / 3600:.1f} h")
