"""Means and intervals over seeds, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from fake_run import config, stage_config, write_fake_run

from ancdiff.artifacts import read_table
from ancdiff.corridor import MEAN_OVER_SYSTEMS
from ancdiff.evaluate import run
from ancdiff.evaluate.comparison import Measurement
from ancdiff.evaluate.seeds import COLUMNS, over_seeds, t_interval

SECTIONS = ("run", "systems", "forcefield", "align", "evaluate")
# Student's t at 97.5 % with 1, 2 and 9 degrees of freedom, from any printed table.
T_975 = {1: 12.706, 2: 4.303, 9: 2.262}


def errors(model: str, **by_system: float) -> list[Measurement]:
    """Free-energy errors of one model, with the floor a tenth of the value."""
    return [
        Measurement(system, model, "free_energy_error_kt", value, 5, against="reference", floor=value / 10)
        for system, value in by_system.items()
    ]


def row(table: pd.DataFrame, model: str, system: str, metric: str = "free_energy_error_kt") -> pd.Series:
    rows = table[(table["model"] == model) & (table["system"] == system) & (table["metric"] == metric)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_three_seeds_by_hand() -> None:
    table = over_seeds(
        [
            *errors("eba_round1_seed5", ala=0.5, val=1.5),
            *errors("eba_round1_seed6", ala=0.7, val=1.7),
            *errors("eba_round1_seed7", ala=0.9, val=1.3),
            *errors("pretrain_seed5", ala=2.0, val=2.0),
            Measurement("ala", "training", "free_energy_error_kt", 9.0, 5, against="reference"),
            Measurement("ala", "eba_round1_seed5", "free_energy_error_kt", 9.0, 5, residue="ALA2", against="reference"),
            Measurement("ala", "eba_round1_seed5", "free_energy_error_kt", 9.0, 5, against="training"),
        ]
    )
    assert tuple(table.columns) == COLUMNS
    assert list(zip(table["model"], table["system"], strict=True)) == [
        (model, system) for model in ("eba_round1", "pretrain") for system in ("ala", "val", MEAN_OVER_SYSTEMS)
    ]
    ala = row(table, "eba_round1", "ala")
    assert (ala["seeds"], ala["unit"]) == (3, "kT")
    assert ala["mean"] == pytest.approx(0.7)
    assert ala["std"] == pytest.approx(0.2)
    assert ala["floor"] == pytest.approx(0.07)
    assert ala["high"] - ala["mean"] == pytest.approx(T_975[2] * 0.2 / np.sqrt(3), rel=1e-4)
    assert ala["mean"] - ala["low"] == pytest.approx(ala["high"] - ala["mean"])
    # Means over systems are 1.0, 1.2 and 1.1: seeds vary together, not as the root of the systems' variances says.
    both = row(table, "eba_round1", MEAN_OVER_SYSTEMS)
    assert both["mean"] == pytest.approx(1.1)
    assert both["std"] == pytest.approx(0.1)
    assert both["low"] == pytest.approx(1.1 - T_975[2] * 0.1 / np.sqrt(3), rel=1e-4)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_students_interval(n: int) -> None:
    values = np.arange(n, dtype=float)
    low, high = t_interval(values)
    half = T_975[n - 1] * np.sqrt(n * (n + 1) / 12) / np.sqrt(n)  # variance of 0 … n−1 with n−1 in its denominator
    # Three digits after the point in the table of t.
    assert (low, high) == pytest.approx(((n - 1) / 2 - half, (n - 1) / 2 + half), abs=1e-3)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 3))
    covered = np.mean([low < 3.0 < high for low, high in map(t_interval, drawn)])
    assert covered == pytest.approx(0.95, abs=0.015)  # four standard errors of 4,000 draws


def test_one_seed_has_a_mean_and_no_interval() -> None:
    one = row(over_seeds(errors("pretrain", ala=2.0)), "pretrain", "ala")
    assert (one["seeds"], one["mean"], one["floor"]) == (1, 2.0, 0.2)
    assert one[["std", "low", "high"]].isna().all()


def test_intervals_stay_within_what_a_metric_can_be() -> None:
    shares = [
        Measurement("ala", f"pretrain_seed{seed}", "stereocentres_right", value, 5)
        for seed, value in enumerate([1.0, 1.0, 0.97])
    ]
    right = row(over_seeds(shares), "pretrain", "ala", "stereocentres_right")
    assert right["high"] == 1.0
    assert right["low"] < 0.97


def test_a_seed_without_a_system_does_not_count_in_the_mean_over_systems() -> None:
    """Its mean would be one over other systems."""
    rows = [*errors("pretrain_seed0", ala=1.0, val=3.0), *errors("pretrain_seed1", ala=2.0)]
    rows += errors("pretrain_seed2", ala=3.0, val=np.nan)
    table = over_seeds(rows)
    assert row(table, "pretrain", "ala")["seeds"] == 3
    assert row(table, "pretrain", "val")["seeds"] == 1
    both = row(table, "pretrain", MEAN_OVER_SYSTEMS)
    assert (both["seeds"], both["mean"]) == (1, 2.0)


def test_the_stage_writes_models_seeds_and_their_table(tmp_path) -> None:
    settings = config(
        run={"name": "fake", "seeds": [4, 9]},
        align={"objectives": ["eba"], "rounds": 1},
        evaluate={"bootstrap_repeats": 20, "floor_draws": 2},
    )
    write_fake_run(tmp_path, settings, frames=60, conformers=30)
    run(stage_config(settings, *SECTIONS), results=tmp_path)
    folder = tmp_path / "evaluate"
    metrics = read_table(folder / "metrics.parquet")
    named = metrics[["ensemble", "model", "seed"]].drop_duplicates().set_index("ensemble")
    assert named.loc["eba_round1_seed9"].tolist() == ["eba_round1", 9]
    assert named.loc["pretrain_seed4"].tolist() == ["pretrain", 4]
    assert named.loc["reference", "model"] == "reference"
    assert named.loc[["training", "reference"], "seed"].isna().all()
    summary = read_table(folder / "summary.parquet").set_index("ensemble")
    assert len(summary) == 2 + 4
    table = read_table(folder / "seeds.parquet")
    assert (folder / "seeds.tsv").read_text().count("\n") == len(table) + 1
    assert set(table["model"]) == {"pretrain", "eba_round1"}
    assert set(table["system"]) == {"ala", "tri", MEAN_OVER_SYSTEMS}
    # The mean over seeds of what the summary averages over systems, and of its floor.
    for column in ("ramachandran_jsd", "free_energy_error_kt", "median_energy_kt"):
        both = row(table, "eba_round1", MEAN_OVER_SYSTEMS, column)
        rows = summary.loc[["eba_round1_seed4", "eba_round1_seed9"]]
        assert both["mean"] == pytest.approx(rows[column].mean())
        assert both["std"] == pytest.approx(rows[column].std())
        assert both["floor"] == pytest.approx(rows[f"{column}_floor"].mean())
