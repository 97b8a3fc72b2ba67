"""Reweighted ensembles in the tables and in the report, on a fake run whose answers are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_run import REFERENCE, TRAINING, config, stage_config, write_fake_run

from ancdiff import evaluate, report
from ancdiff.artifacts import read_ensemble, read_table, write_table
from ancdiff.basins import BASINS, assign_basins, ramachandran
from ancdiff.corridor import Layout
from ancdiff.errors import InputError
from ancdiff.report import collect, findings, tables
from ancdiff.units import thermal_energy_kj_mol

EVALUATE = ("run", "systems", "forcefield", "align", "evaluate")
REPORT = ("run", "systems", "align", "report")
SETTINGS = config(
    systems={"ala": {"sequence": "ACE-ALA-NME"}},
    align={"objectives": ["eba"], "rounds": 1},
    evaluate={"bootstrap_repeats": 40, "floor_draws": 2},
)
MODEL, WEIGHTED = "pretrain", "pretrain_reweighted"


def write_densities(root: Path, log_density: np.ndarray, model: str = MODEL, error: float = 0.1) -> None:
    table = {"conformer": np.arange(len(log_density)), "log_density_nats": log_density, "standard_error_nats": error}
    write_table(Layout(root).log_densities(model, "ala"), pd.DataFrame(table))


def reduced(root: Path, model: str) -> np.ndarray:
    energies = read_table(Layout(root).energies(model, "ala"))["energy_kj_mol"]
    return energies.to_numpy() / thermal_energy_kj_mol(300.0)


def metric(root: Path, name: str, ensemble: str, **where: str) -> pd.DataFrame:
    table = read_table(root / "evaluate" / "metrics.parquet")
    chosen = (table["metric"] == name) & (table["ensemble"] == ensemble)
    for column, value in ({"residue": "", "basin": "", "against": ""} | where).items():
        chosen &= table[column] == value
    return table[chosen]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pretrained samples with the densities that turn their populations into the reference's; EBA's have a bad tail."""
    root = tmp_path_factory.mktemp("reweighting")
    write_fake_run(root, SETTINGS, frames=400, conformers=400)
    basins = assign_basins(ramachandran(read_ensemble(Layout(root).ensemble(MODEL, "ala")))[1])[:, 0]
    ratio = np.array(REFERENCE) / np.array(TRAINING)
    known = np.where(basins >= 0, ratio[np.maximum(basins, 0)], 1.0)
    write_densities(root, np.nan_to_num(-reduced(root, MODEL)) - np.log(known))
    heavy = 2.0 * np.random.default_rng(0).exponential(size=400)  # weights with a tail of shape 2
    # Weights of paths have no standard error.
    write_densities(root, np.nan_to_num(-reduced(root, "eba_round1")) - heavy, "eba_round1", np.nan)
    evaluate.run(stage_config(SETTINGS, *EVALUATE), results=root)
    return root


def test_weights_turn_the_populations_into_the_references(folder: Path) -> None:
    for b, basin in enumerate(BASINS):
        before = metric(folder, "population", MODEL, residue="ALA2", basin=basin).iloc[0]
        after = metric(folder, "population", WEIGHTED, residue="ALA2", basin=basin).iloc[0]
        assert abs(before["value"] - TRAINING[b]) < 0.07
        assert after["low"] - 0.02 < REFERENCE[b] < after["high"] + 0.02
    wrong, right = (
        metric(folder, "free_energy_error_kt", name, against="reference").iloc[0] for name in (MODEL, WEIGHTED)
    )
    assert right["value"] < 0.35 < wrong["value"]
    maps = [metric(folder, "ramachandran_jsd", name, against="reference")["value"].item() for name in (MODEL, WEIGHTED)]
    assert maps[1] < maps[0]


def test_the_numbers_that_speak_for_the_weights(folder: Path) -> None:
    share = metric(folder, "effective_share", WEIGHTED)["value"].item()
    ratio, training = np.array(REFERENCE) / np.array(TRAINING), np.array(TRAINING)
    expected = (training @ ratio) ** 2 / (training @ ratio**2)
    assert share == pytest.approx(expected, abs=0.08)
    assert metric(folder, "log_density_error_nats", WEIGHTED)["value"].item() == pytest.approx(0.1)
    assert set(metric(folder, "pareto_k", WEIGHTED)["status"]) == {"ok"}
    table = read_table(folder / "evaluate" / "metrics.parquet")
    mine = table[table["ensemble"] == WEIGHTED]
    assert set(mine["model"]) == {WEIGHTED}
    # what counts draws, not weights, is not said of a reweighted ensemble
    assert not set(mine["metric"]) & {"stereocentres_right", "energy_failed", "conformers_finite"}


def test_a_heavy_tail_is_refused_by_name(folder: Path) -> None:
    table = read_table(folder / "evaluate" / "metrics.parquet")
    refused = table[table["ensemble"] == "eba_round1_reweighted"]
    assert set(refused["status"]) == {"heavy_tail"}
    assert refused.loc[refused["metric"] == "pareto_k", "value"].item() > 0.7
    claims = refused[~refused["metric"].isin(["pareto_k", "effective_share", "log_density_error_nats"])]
    assert {"free_energy_error_kt", "ramachandran_jsd"} <= set(claims["metric"])
    assert claims["value"].isna().all()
    assert set(table.loc[table["ensemble"] == MODEL, "status"]) == {"ok"}
    summary = read_table(folder / "evaluate" / "summary.parquet").set_index("ensemble")
    assert np.isnan(summary.loc["eba_round1_reweighted", "free_energy_error_kt"])
    # nothing is refused that was never measured, as clouds' distances or a network's equivariance are not of a peptide
    drawn = table.loc[table["ensemble"] == "eba_round1", "metric"]
    assert set(refused["metric"]) <= {*drawn, "effective_share", "pareto_k", "log_density_error_nats"}
    assert summary.loc[WEIGHTED, "free_energy_error_kt"] < summary.loc[MODEL, "free_energy_error_kt"]


def test_the_report_has_a_row_for_each_and_says_what_is_not_claimed(folder: Path) -> None:
    report.run(stage_config(SETTINGS, *REPORT), results=folder)
    run = collect.open_run(stage_config(SETTINGS, *REPORT), folder)
    rows = {row["name"]: row["cells"] for row in tables.headline(run)["rows"]}
    names = list(rows)
    assert names.index("pretrained, reweighted") == names.index("pretrained") + 1
    assert rows["EBA, round 1, reweighted"][0]["text"] == "–"
    assert rows["pretrained, reweighted"][0]["text"] != "–"
    assert any("Nothing is claimed of EBA, round 1, reweighted" in said for said in findings.cautions(run))
    titles = [column.title for column in tables.per_system(run)["columns"]]
    assert {"Effective samples", "Pareto k"} <= set(titles)
    assert "pretrained, reweighted" in (folder / "report.html").read_text(encoding="utf-8")


def test_densities_of_other_samples_are_an_error(folder: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "run"
    shutil.copytree(folder, root)
    write_densities(root, np.zeros(7))
    with pytest.raises(InputError, match="7 log-densities of 400 conformers"):
        evaluate.run(stage_config(SETTINGS, *EVALUATE), results=root)
