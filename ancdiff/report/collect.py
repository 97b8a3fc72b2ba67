"""What the report shows, read from a run's folder. What is missing there is left out of the page, not an error."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ancdiff.artifacts import read_ensemble, read_json, read_table
from ancdiff.config import Config, StageConfig
from ancdiff.corridor import (
    MD_ENSEMBLES,
    MEAN_OVER_SYSTEMS,
    PRETRAINED,
    Layout,
    aligned_model,
    models,
    named_seeds,
    objective_of,
    reweighted,
    split_model,
)
from ancdiff.molecules import Ensemble
from ancdiff.units import thermal_energy_kj_mol
from ancdiff.weights import effective_sample_size

_OBJECTIVE_WORDS = {
    "eba": "EBA",
    "eba_reference": "EBA to reference model",
    "eba_dpo": "EBA-DPO",
    "dpo": "Diffusion-DPO",
    "none": "control",
}
# Of MD, clouds of points and conformers made otherwise alike.
_MD_WORDS = {"training": "training data", "reference": "reference"}
_COLUMN_ENDS = {"_low": "low", "_high": "high", "_floor": "floor"}


def words(ensemble: str) -> str:
    """An ensemble in plain words, without its seed: ``eba_round2_seed7`` → “EBA, round 2”."""
    if ensemble in _MD_WORDS:
        return _MD_WORDS[ensemble]
    name = split_model(ensemble)
    model = "pretrained" if name.round_number == 0 else f"{line_words(name.line)}, round {name.round_number}"
    return f"{model}, reweighted" if name.reweighted else model


def line_words(line: str) -> str:
    """A line of models in plain words: ``eba`` → “EBA”, ``eba_published`` → “EBA (published)”."""
    objective = objective_of(line)
    variant = line.removeprefix(objective).removeprefix("_")
    return f"{_OBJECTIVE_WORDS[objective]} ({variant})" if variant else _OBJECTIVE_WORDS[objective]


def words_with_seed(ensemble: str) -> str:
    """An ensemble in plain words, with its seed where the run has several: “EBA, round 2, seed 7”."""
    seed = None if ensemble in _MD_WORDS else split_model(ensemble).seed
    return words(ensemble) if seed is None else f"{words(ensemble)}, seed {seed}"


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, ready to be shown."""

    root: Path
    settings: StageConfig
    metrics: pd.DataFrame
    summary: pd.DataFrame
    record: dict[str, Any]
    over_seeds: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @property
    def systems(self) -> list[str]:
        return list(self.settings.systems)

    @property
    def pictured_systems(self) -> list[str]:
        """The systems with rows, maps and pictures of their own."""
        return self.systems[: self.settings.report.pictured_systems]

    @property
    def objectives(self) -> list[str]:
        return list(self.settings.align.objectives) if self.rounds else []

    @property
    def rounds(self) -> int:
        return self.settings.align.rounds

    @property
    def models(self) -> list[str]:
        return models(self._names)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.settings.run.seeds

    @property
    def named_seeds(self) -> tuple[int | None, ...]:
        """The seeds as they stand in models' names; the first is the one that figures show."""
        return named_seeds(self._names)

    @property
    def _names(self) -> Config:
        return Config(run=self.settings.run, align=self.settings.align)

    def model(self, objective: str, round_number: int) -> str:
        """The shown model of an objective after a round: that of the first seed."""
        return aligned_model(objective, round_number, self.named_seeds[0])

    @property
    def pretrained(self) -> str:
        """The shown pretrained model: that of the first seed."""
        return self.model(PRETRAINED, 0)

    @property
    def shown(self) -> list[str]:
        """The ensembles of maps and pictures: training MD, pretrained, the last round of each objective, reference."""
        last = [self.model(objective, self.rounds) for objective in self.objectives]
        return ["training", self.pretrained, *last, "reference"]

    @property
    def evaluated_with(self) -> dict[str, Any]:
        """The sections that `evaluate` was handed."""
        return self.record["settings"]

    @property
    def thermal_energy_kj_mol(self) -> float:
        return thermal_energy_kj_mol(self.evaluated_with["forcefield"]["temperature_kelvin"])

    def ensemble(self, name: str, system: str) -> Ensemble | None:
        """An ensemble without conformers that are not finite; None where it is not there or none are."""
        return _ensemble(self.layout.ensemble(name, system), system)

    def energies_kt(self, name: str, system: str) -> np.ndarray:
        """Energies in kT of the conformers that have one."""
        path = self.layout.energies(name, system)
        if not path.is_file():
            return np.zeros(0)
        table = read_table(path)
        values = table.loc[table["status"] == "ok", "energy_kj_mol"].to_numpy(dtype=np.float64)
        return values[np.isfinite(values)] / self.thermal_energy_kj_mol

    def average(self, ensemble: str, column: str) -> float:
        """A number of the summary, averaged over systems; NaN where there is none.

        A model's name without a seed stands for all seeds where the run has several: the mean over them, with their
        interval and floor.
        """
        if len(self.seeds) > 1 and ensemble not in MD_ENSEMBLES and split_model(ensemble).seed is None:
            return self.over(ensemble, MEAN_OVER_SYSTEMS, column)
        if column not in self.summary.columns or ensemble not in self.summary.index:
            return np.nan
        return float(self.summary[column].to_numpy()[self.summary.index == ensemble][0])

    def over(self, model: str, system: str, column: str) -> float:
        """As `average`, of a model without its seed and of one system: over seeds."""
        metric, wanted = column, "mean"
        for end, name in _COLUMN_ENDS.items():
            if column.endswith(end):
                metric, wanted = column.removesuffix(end), name
        table = self.over_seeds
        if table.empty:
            return np.nan
        rows = table[(table["model"] == model) & (table["system"] == system) & (table["metric"] == metric)]
        return float(rows[wanted].iloc[0]) if len(rows) else np.nan

    def with_reweighted(self, names: Iterable[str]) -> list[str]:
        """The ensembles, each followed by itself reweighted where the tables have it."""
        known = set(self.metrics["ensemble"])
        out = []
        for name in names:
            weighted = "" if name in MD_ENSEMBLES else reweighted(name)
            out += [name, weighted] if weighted in known else [name]
        return out

    def select(self, metric: str, **where: str) -> pd.DataFrame:
        """Rows of a metric, by other columns; residue and basin are empty unless given."""
        wanted = {"residue": "", "basin": ""} | where
        chosen = self.metrics["metric"] == metric
        for column, value in wanted.items():
            if value != "*":
                chosen &= self.metrics[column] == value
        return self.metrics[chosen]


@lru_cache(maxsize=64)
def _ensemble(path: Path, system: str) -> Ensemble | None:
    if not path.is_file():
        return None
    ensemble = read_ensemble(path, name=system)
    finite = np.isfinite(ensemble.positions_nm).all(axis=(1, 2))
    return Ensemble(ensemble.molecule, ensemble.positions_nm[finite]) if finite.any() else None


def open_run(settings: StageConfig, results: Path) -> Run:
    """Read what `evaluate` wrote.

    Raises:
        InputError: the run has not been evaluated.
    """
    _ensemble.cache_clear()  # a folder may have changed since it was last read
    folder = results / "evaluate"
    return Run(
        root=results,
        settings=settings,
        metrics=read_table(folder / "metrics.parquet"),
        summary=read_table(folder / "summary.parquet").set_index("ensemble"),
        record=read_json(folder / "metrics.json"),
        over_seeds=read_table(folder / "seeds.parquet"),
    )


def training_curve(run: Run, model: str) -> pd.DataFrame | None:
    """Loss and the like of a model, per step; None where there is none."""
    path = run.layout.model(model).parent / "metrics.parquet"
    return read_table(path) if path.is_file() else None


def pool_weights(run: Run) -> pd.DataFrame:
    """One row per aligned model and system: effective sample sizes, conformers and temperatures of its pool.

    ``ess`` is that of the Boltzmann weights, by which the objective compares conformers, and ``anchor_ess`` that of the
    importance weights that the anchor learns by (NaN where there are none, as in a control, whose table lacks them).
    ``md_kelvin`` is the temperature by which a round weighed the training MD (NaN where it did not).
    """
    rows = []
    for model in run.models:
        name, path = split_model(model), run.layout.model(model).parent / "weights.parquet"
        if name.round_number == 0 or not path.is_file():
            continue
        table = read_table(path)
        whole = table.reindex(columns=table.columns.union(["anchor_log_weight", "anchor_md_kelvin"]))
        for system, pool in whole.groupby("system", sort=False):
            rows.append(
                {
                    "model": model,
                    "objective": name.line,
                    "round": name.round_number,
                    "system": system,
                    "ess": float(pool["ess"].iloc[0]),
                    "anchor_ess": _effective(pool["anchor_log_weight"]),
                    "conformers": len(pool),
                    "temperature_kelvin": float(pool["temperature_kelvin"].iloc[0]),
                    "md_kelvin": float(pool["anchor_md_kelvin"].iloc[0]),
                }
            )
    sizes, temperatures = ["ess", "anchor_ess", "conformers"], ["temperature_kelvin", "md_kelvin"]
    columns = ["model", "objective", "round", "system", *sizes, *temperatures]
    return pd.DataFrame(rows, columns=columns)


def _effective(log_weight: pd.Series) -> float:
    """Effective sample size of weights; NaN where none is above zero."""
    return effective_sample_size(log_weight.to_numpy()) if np.isfinite(log_weight).any() else np.nan


def stage_times(run: Run) -> pd.DataFrame:
    """Time and peak memory of each stage, from Snakemake's benchmark files: stage, jobs, seconds, peak_mib."""
    folder = run.root / "benchmarks"
    rows = []
    for path in sorted(folder.rglob("*.tsv")):
        table = pd.read_csv(path, sep="\t", na_values=["NA", "-"])
        parts = path.relative_to(folder).with_suffix("").parts
        table = table.reindex(columns=["s", "max_rss"]).apply(pd.to_numeric, errors="coerce")
        seconds, memory = table["s"].sum(), table["max_rss"].max()
        rows.append({"stage": parts[0], "jobs": 1, "seconds": float(seconds), "peak_mib": float(memory)})
    table = pd.DataFrame(rows, columns=["stage", "jobs", "seconds", "peak_mib"])
    return table.groupby("stage", sort=False).agg({"jobs": "sum", "seconds": "sum", "peak_mib": "max"}).reset_index()


def records(run: Run) -> list[dict[str, Any]]:
    """What made the models and the tables: artifact, seed, code stamp, versions, settings."""
    found = []
    for model in run.models:
        path = run.layout.model(model).with_suffix(".json")
        if path.is_file():
            content = read_json(path)
            found.append({"artifact": words_with_seed(model), **content.get("made_by", content)})
    return [*found, {"artifact": "metrics", **run.record}]


def evenly(n: int, wanted: int) -> np.ndarray:
    """Indices of at most ``wanted`` of ``n`` conformers, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).round().astype(np.int64))


def available(run: Run, system: str, names: Iterable[str]) -> list[str]:
    """Those of the ensembles that this system has."""
    return [name for name in names if run.ensemble(name, system) is not None]


def is_md(ensemble: str) -> bool:
    return ensemble in MD_ENSEMBLES
