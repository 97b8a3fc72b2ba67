"""pretrain, sample and align on a tiny made-up data set: what they write, refuse and leave out."""

import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from ancdiff import align, anchor, pretrain, sample, weigh
from ancdiff.artifacts import read_ensemble, read_json, read_table, write_ensemble, write_json, write_table
from ancdiff.config import AlignSettings, Config, DenoiserSettings, DiffusionSettings, Objective, StageConfig
from ancdiff.corridor import Layout
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoiser.store import load_denoiser
from ancdiff.diffusion.likelihood import exact_trace, log_density
from ancdiff.diffusion.noise import centre, karras_sigma
from ancdiff.errors import InputError, StageError
from ancdiff.feedback import mean_energy
from ancdiff.model_energies import pool_energies
from ancdiff.molecules import ENERGY_COLUMNS, Ensemble
from ancdiff.pool import Pool, draw_anchored, draw_group, held_out
from ancdiff.testing import alanine_dipeptide
from ancdiff.units import thermal_energy_kj_mol
from ancdiff.weights import effective_sample_size, pareto_smoothed

SYSTEMS = {"ala": {"sequence": "ACE-ALA-NME"}}
NETWORK = {"features": 16, "pair_features": 8, "layers": 1}
TINY = {
    "run": {},
    "systems": SYSTEMS,
    "forcefield": {},
    "denoiser": NETWORK,
    "diffusion": {},
    "pretrain": {"steps": 5, "batch_size": 4, "warmup_steps": 1, "validate_every_steps": 5},
    "sample": {"conformers": 6, "steps": 3, "batch_size": 4},
    "weigh": {},
    "align": {
        "steps": 3,
        "group_size": 4,
        "groups_per_step": 2,
        "noise_levels": 4,
        "anchor_batch_size": 4,
        "anchor_noise_levels": 4,
    },
}


def stage_config(*sections: str, **changes: dict) -> StageConfig:
    return StageConfig({name: TINY[name] | changes.get(name, {}) for name in sections})


def energy_table(n: int, rng: np.random.Generator) -> pd.DataFrame:
    table = pd.DataFrame({name: np.zeros(n) for name in ENERGY_COLUMNS})
    table["conformer"] = np.arange(n)
    table["status"] = "ok"
    table["energy_kj_mol"] = rng.normal(-100, 5, n)
    return table.astype(ENERGY_COLUMNS)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A run that has its data set and a pretrained model with samples and energies."""
    rng = np.random.default_rng(0)
    layout = Layout(tmp_path / "results" / "run")
    template = alanine_dipeptide()
    jitter = rng.normal(0, 0.003, (40, template.molecule.n_atoms, 3)).astype(np.float32)
    ensemble = Ensemble(template.molecule, template.positions_nm + jitter)
    write_ensemble(layout.ensemble("training", "ala"), ensemble)
    split = pd.DataFrame({"system": "ala", "md": "training", "frame": np.arange(40), "replica": 0, "half": 0})
    split["split"] = np.where(split["frame"] < 36, "train", "validation")
    write_table(layout.root / "dataset" / "split.parquet", split)
    run_pretrain(layout.root)
    draw(layout)
    write_table(layout.energies("training", "ala"), energy_table(40, rng))
    write_table(layout.energies("pretrain", "ala"), energy_table(6, rng))
    return layout.root


def draw(layout: Layout, output: Path | None = None, seed: int = 3, **changes: dict) -> Path:
    output = output or layout.ensemble("pretrain", "ala")
    sample.run(
        stage_config("diffusion", "sample", **changes),
        model=layout.model("pretrain"),
        topology=layout.topology("ala"),
        output=output,
        seed=seed,
        threads=1,
    )
    return output


PATHS = {
    "diffusion": {"superpose": False},
    "sample": {"solver": "ancestral", "log_density": "path", "log_density_probes": 2},
}


def weigh_frames(results: Path, max_md_conformers: int | None = None) -> None:
    """Some of the training MD, by the kernels of paths that are drawn for it."""
    layout = Layout(results)
    kernels = layout.posteriors("pretrain", "ala")
    if not kernels.is_file():
        drawn = draw(layout, results.parent / "by_paths" / "conformers.dcd", **PATHS)
        kernels.write_bytes((drawn.parent / kernels.name).read_bytes())
    weigh.run(
        stage_config("diffusion", "sample", "weigh", **PATHS, weigh={"max_md_conformers": max_md_conformers}),
        model=layout.model("pretrain"),
        posteriors=kernels,
        topology=layout.topology("ala"),
        conformers=layout.ensemble("training", "ala"),
        energies=layout.energies("training", "ala"),
        output=layout.frame_log_densities("pretrain", "ala"),
        seed=4,
        threads=1,
    )


def run_pretrain(results: Path, model: str = "pretrain", seed: int = 5) -> None:
    settings = stage_config("systems", "denoiser", "diffusion", "pretrain")
    pretrain.run(settings, results=results, model=model, seed=seed, threads=1)


def run_align(results: Path, model: str, seed: int = 5, **changes: dict) -> None:
    settings = stage_config("systems", "forcefield", "diffusion", "align", **changes)
    align.run(settings, results=results, model=model, seed=seed, threads=1)


def test_pretrain_writes_a_model_its_curve_and_what_made_it(results: Path) -> None:
    denoiser, record = load_denoiser(results / "pretrain" / "model.safetensors")
    assert record["made_by"]["seed"] == 5
    assert record["made_by"]["settings"]["pretrain"]["steps"] == 5
    assert denoiser.sigma_data_nm == pytest.approx(0.18, abs=0.05)
    metrics = read_table(results / "pretrain" / "metrics.parquet")
    assert metrics["step"].tolist() == [1, 2, 3, 4, 5]
    assert np.isfinite(metrics["validation_loss"].iloc[-1])
    assert not list((results / "pretrain" / ".work").iterdir())


def test_two_runs_with_one_seed_give_the_same_model(results: Path, tmp_path: Path) -> None:
    before = (results / "pretrain" / "model.safetensors").read_bytes()
    run_pretrain(results)
    assert (results / "pretrain" / "model.safetensors").read_bytes() == before


def weights_of(path: Path) -> list[np.ndarray]:
    return [p.detach().numpy() for p in load_denoiser(path)[0].parameters()]


def test_a_model_of_one_of_several_seeds_is_that_of_a_run_with_this_seed(results: Path) -> None:
    """Nothing but the names differs; another seed gives another model, beside it."""
    layout = Layout(results)
    for seed in (5, 6):
        model = f"pretrain_seed{seed}"
        run_pretrain(results, model, seed)
        shutil.copytree(layout.ensemble("pretrain", "ala").parent, layout.ensemble(model, "ala").parent)
        shutil.copytree(layout.energies("pretrain", "ala").parent, layout.energies(model, "ala").parent)
        run_align(results, f"eba_round1_seed{seed}", seed)
        assert load_denoiser(layout.model(model))[1]["made_by"]["seed"] == seed
    run_align(results, "eba_round1")
    for model in ("pretrain", "eba_round1"):
        alone, same, other = (weights_of(layout.model(model + suffix)) for suffix in ("", "_seed5", "_seed6"))
        assert all(np.array_equal(a, b) for a, b in zip(alone, same, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(alone, other, strict=True))
    sources = read_table(results / "align" / "eba_round1_seed6" / "weights.parquet")["source"]
    assert set(sources) == {"training", "pretrain_seed6"}


def test_samples_depend_on_the_seed_and_on_nothing_else(results: Path, tmp_path: Path) -> None:
    layout = Layout(results)
    again = read_ensemble(draw(layout, tmp_path / "again" / "conformers.dcd"))
    other = read_ensemble(draw(layout, tmp_path / "other" / "conformers.dcd", seed=4))
    first = read_ensemble(layout.ensemble("pretrain", "ala"))
    assert len(first) == 6
    assert np.array_equal(first.positions_nm, again.positions_nm)
    assert not np.allclose(first.positions_nm, other.positions_nm)


@pytest.mark.parametrize("objective", get_args(Objective))
def test_a_round_makes_the_next_model(results: Path, objective: str) -> None:
    run_align(results, f"{objective}_round1")
    folder = results / "align" / f"{objective}_round1"
    aligned, record = load_denoiser(folder / "model.safetensors")
    pretrained, _ = load_denoiser(results / "pretrain" / "model.safetensors")
    changes = [(a - b).abs().max() for a, b in zip(aligned.parameters(), pretrained.parameters(), strict=True)]
    assert max(changes) > 0
    assert record["made_by"]["stage"] == "align"
    assert read_table(folder / "metrics.parquet")["step"].tolist() == [1, 2, 3]
    weights = read_table(folder / "weights.parquet")
    assert np.exp(weights["log_weight"]).sum() == pytest.approx(1.0)
    assert set(weights["temperature_kelvin"]) == {300.0}


def test_weights_leave_out_validation_frames_and_failed_conformers(results: Path) -> None:
    path = Layout(results).energies("pretrain", "ala")
    table = read_table(path)
    table.loc[2, ["status", "energy_kj_mol"]] = ["clash", np.nan]
    write_table(path, table)
    run_align(results, "eba_round1")
    weights = read_table(results / "align" / "eba_round1" / "weights.parquet")
    assert set(weights.loc[weights["source"] == "training", "conformer"]) <= set(range(36))
    failed = weights[(weights["source"] == "pretrain") & (weights["conformer"] == 2)]
    assert failed["log_weight"].tolist() == [-np.inf]


def test_all_conformers_failed_is_named(results: Path) -> None:
    for source in ("training", "pretrain"):
        path = Layout(results).energies(source, "ala")
        write_table(path, read_table(path).assign(status="nan_energy", energy_kj_mol=np.nan))
    with pytest.raises(StageError, match="ala") as caught:
        run_align(results, "eba_round1")
    assert "status" in caught.value.fix


def test_model_samples_all_failed_is_named(results: Path) -> None:
    path = Layout(results).energies("pretrain", "ala")
    write_table(path, read_table(path).assign(status="clash", energy_kj_mol=np.nan))
    with pytest.raises(StageError, match="pool of ala has no model samples"):
        run_align(results, "eba_round1")


def test_tempering_is_written_down(results: Path) -> None:
    run_align(results, "eba_round1", align={"temper": {"target_ess_fraction": 0.8}})
    weights = read_table(results / "align" / "eba_round1" / "weights.parquet")
    (kelvin,) = set(weights["temperature_kelvin"])
    assert kelvin > 300
    assert weights["ess"].iloc[0] >= 0.8 * np.isfinite(weights["log_weight"]).sum() * 0.999


def two_systems(results: Path) -> dict:
    """The run with a second system, val, that is ala under another name; its systems section."""
    for folder in ("dataset", "sample/pretrain"):
        shutil.copytree(results / folder / "ala", results / folder / "val")
    for source in ("training", "pretrain"):
        shutil.copy(Layout(results).energies(source, "ala"), Layout(results).energies(source, "val"))
    split = read_table(results / "dataset" / "split.parquet")
    write_table(results / "dataset" / "split.parquet", pd.concat([split, split.assign(system="val")]))
    return {"val": {"sequence": "ACE-VAL-NME"}}


@pytest.mark.parametrize("sources", [("training", "pretrain"), ("pretrain",)])
def test_a_system_without_energies_is_left_out_by_name(results: Path, sources: tuple[str, ...], capsys) -> None:
    systems = two_systems(results)
    for source in sources:
        path = Layout(results).energies(source, "val")
        write_table(path, read_table(path).assign(status="clash", energy_kj_mol=np.nan))
    run_align(results, "eba_round1", systems=systems)
    folder = results / "align" / "eba_round1"
    assert np.isfinite(read_table(folder / "metrics.parquet")["loss"]).all()
    assert "val is left out" in capsys.readouterr().err
    assert set(read_json(folder / "model.json")["made_by"]["left_out"]) == {"val"}
    weights = read_table(folder / "weights.parquet")
    assert np.isfinite(weights.loc[weights["system"] == "ala", "log_weight"]).all()
    # the next round has its energies again, and starts it afresh
    layout = Layout(results)
    for name in ("ala", "val"):
        shutil.copytree(layout.ensemble("pretrain", name).parent, layout.ensemble("eba_round1", name).parent)
        for source in ("training", "pretrain", "eba_round1"):
            write_table(
                layout.energies(source, name), energy_table(40 if source == "training" else 6, np.random.default_rng(1))
            )
    run_align(results, "eba_round2", systems=systems)
    second = read_table(results / "align" / "eba_round2" / "weights.parquet")
    for _, rows in second.groupby("system"):
        assert np.exp(rows["anchor_log_weight"]).sum() == pytest.approx(1.0)
    assert set(second["system"]) == {"ala", "val"}


def test_no_system_left_names_all(results: Path) -> None:
    systems = two_systems(results)
    for source in ("training", "pretrain"):
        for name in ("ala", "val"):
            path = Layout(results).energies(source, name)
            write_table(path, read_table(path).assign(status="clash", energy_kj_mol=np.nan))
    with pytest.raises(StageError, match="no system is left to align on") as caught:
        run_align(results, "eba_round1", systems=systems)
    assert caught.value.where == "ala, val"
    assert not (results / "align" / "eba_round1" / "model.safetensors").exists()


def test_the_control_needs_no_energies(results: Path) -> None:
    for source in ("training", "pretrain"):
        path = Layout(results).energies(source, "ala")
        write_table(path, read_table(path).assign(status="clash", energy_kj_mol=np.nan))
    run_align(results, "none_round1")
    assert len(read_table(results / "align" / "none_round1" / "weights.parquet")) == 0
    load_denoiser(results / "align" / "none_round1" / "model.safetensors")


def test_missing_energies_are_named(results: Path) -> None:
    Layout(results).energies("pretrain", "ala").unlink()
    with pytest.raises(InputError, match="no such file") as caught:
        run_align(results, "eba_round1")
    assert "pretrain/ala.parquet" in caught.value.where


def test_one_conformer_with_all_the_weight(results: Path) -> None:
    """Energies a million kT apart: one effective conformer, finite losses, and the anchor is still spread."""
    path = Layout(results).energies("training", "ala")
    table = read_table(path)
    table.loc[3, "energy_kj_mol"] = -1e7
    write_table(path, table)
    run_align(results, "eba_round1")
    weights = read_table(results / "align" / "eba_round1" / "weights.parquet")
    assert weights["ess"].iloc[0] == pytest.approx(1.0)
    assert np.isfinite(read_table(results / "align" / "eba_round1" / "metrics.parquet")["loss"]).all()
    anchor = np.exp(weights["anchor_log_weight"].to_numpy())
    assert 1 / np.square(anchor).sum() >= 0.05 * len(weights) * 0.999  # align.anchor_ess_fraction


def test_groups_without_model_samples_need_none(results: Path) -> None:
    """Off-policy: data_fraction 1 aligns on MD alone, as the published method does."""
    path = Layout(results).energies("pretrain", "ala")
    write_table(path, read_table(path).assign(status="clash", energy_kj_mol=np.nan))
    run_align(results, "eba_round1", align={"data_fraction": 1.0})
    assert np.isfinite(read_table(results / "align" / "eba_round1" / "metrics.parquet")["loss"]).all()


def test_a_loss_that_is_not_finite_stops_with_the_system_and_keeps_nothing(results: Path, monkeypatch) -> None:
    monkeypatch.setattr(align, "likelihood_terms", lambda denoise, x, *rest, **more: torch.full((len(x), 4), torch.nan))
    with pytest.raises(StageError, match="conformers of ala are not finite") as caught:
        run_align(results, "eba_round1")
    assert "learning_rate" in caught.value.fix
    assert not (results / "align" / "eba_round1" / "model.safetensors").exists()


def test_a_ladder_of_temperatures_is_climbed_down(results: Path) -> None:
    ladder = {"temper": {"ladder_kelvin": [900.0], "target_ess_fraction": None}}
    run_align(results, "eba_round1", align=ladder)
    layout = Layout(results)
    shutil.copytree(layout.ensemble("pretrain", "ala").parent, layout.ensemble("eba_round1", "ala").parent)
    write_table(layout.energies("eba_round1", "ala"), energy_table(6, np.random.default_rng(9)))
    run_align(results, "eba_round2", align=ladder)
    for round_number, kelvin in ((1, 900.0), (2, 300.0)):
        weights = read_table(results / "align" / f"eba_round{round_number}" / "weights.parquet")
        assert set(weights["temperature_kelvin"]) == {kelvin}
    energy = read_table(results / "align" / "eba_round1" / "weights.parquet")
    ratio = -energy["energy_kj_mol"].diff().dropna() / thermal_energy_kj_mol(900.0)
    np.testing.assert_allclose(energy["log_weight"].diff().dropna(), ratio, rtol=1e-9)


def test_samples_come_with_their_log_densities(results: Path) -> None:
    """The same conformers with and without densities; densities those of the model; a rerun without leaves no table."""
    layout = Layout(results)
    output = layout.ensemble("eba_round1", "ala")

    def sampled(**changes: object) -> pd.DataFrame | None:
        settings = stage_config("diffusion", "sample", sample={"solver": "rk4", "steps": 8, **changes})
        sample.run(
            settings, model=layout.model("pretrain"), topology=layout.topology("ala"), output=output, seed=3, threads=1
        )
        densities = layout.log_densities("eba_round1", "ala")
        return read_table(densities) if densities.is_file() else None

    exact = sampled(log_density="exact")
    positions = read_ensemble(output).positions_nm
    errors = read_json(output.with_suffix(".json"))["log_density"]
    assert exact is not None
    assert exact["conformer"].tolist() == list(range(6))
    assert (exact["standard_error_nats"] == 0).all()
    assert errors["step_error_nats"] > 0
    assert errors["round_trip_error_nm"] < 0.01

    denoiser, _ = load_denoiser(layout.model("pretrain"))
    sigma = karras_sigma(
        8, sigma_min_nm=0.004 * denoiser.sigma_data_nm, sigma_max_nm=3.0 * denoiser.sigma_data_nm, rho=7.0
    )[:-1]
    denoise = denoiser.on(molecule_graph(alanine_dipeptide().molecule))
    x = centre(torch.as_tensor(positions))
    spread = denoiser.sigma_data_nm
    backward = log_density(denoise, x, sigma.flip(0), trace=exact_trace(), order=4, data_spread_nm=spread).nats
    # the steps back are not the steps forth: as far apart as the stated error of the steps allows
    assert np.abs(exact["log_density_nats"] - backward.numpy()).max() < 3 * errors["step_error_nats"] + 0.01

    estimated = sampled(log_density="hutchinson", log_density_probes=64)
    assert estimated is not None
    assert np.array_equal(read_ensemble(output).positions_nm, positions)
    pulls = (estimated["log_density_nats"] - exact["log_density_nats"]) / estimated["standard_error_nats"]
    assert np.abs(pulls).max() < 5

    kernels = layout.posteriors("eba_round1", "ala")
    assert not kernels.is_file()
    assert sampled(solver="ancestral", log_density="path") is not None
    assert kernels.is_file()
    assert sampled() is None
    assert not kernels.is_file()  # neither belongs to these samples
    assert np.array_equal(read_ensemble(output).positions_nm, positions)


@pytest.mark.parametrize("log_density", ["path", "none"])
def test_the_way_that_is_shown_ends_at_the_first_conformer_of_sampled_paths(results: Path, log_density: str) -> None:
    layout = Layout(results)
    output = layout.ensemble("eba_round1", "ala")
    asked = {"solver": "ancestral", "log_density": log_density, "steps": 8, "eta": 1.0}
    settings = stage_config("diffusion", "sample", sample=asked)
    sample.run(
        settings, model=layout.model("pretrain"), topology=layout.topology("ala"), output=output, seed=3, threads=1
    )
    way = read_ensemble(output.with_name("reverse.dcd"), topology=layout.topology("ala")).positions_nm
    assert len(way) == len(read_json(output.with_suffix(".json"))["reverse_sigma_nm"]) == 9
    np.testing.assert_allclose(way[-1], read_ensemble(output).positions_nm[0], atol=1e-6)


def test_a_second_round_goes_on_with_the_anchors_weights(results: Path) -> None:
    run_align(results, "eba_round1")
    layout = Layout(results)
    shutil.copytree(layout.ensemble("pretrain", "ala").parent, layout.ensemble("eba_round1", "ala").parent)
    write_table(layout.energies("eba_round1", "ala"), energy_table(6, np.random.default_rng(9)))
    run_align(results, "eba_round2")
    first = read_table(results / "align" / "eba_round1" / "weights.parquet")
    second = read_table(results / "align" / "eba_round2" / "weights.parquet")
    for table in (first, second):
        assert np.exp(table["anchor_log_weight"]).sum() == pytest.approx(1.0)
    assert set(second["source"]) == {"training", "pretrain", "eba_round1"}
    both = second.merge(first, on=["source", "conformer"], suffixes=("", "_before"))
    moved = both["anchor_log_weight"] - both["anchor_log_weight_before"]
    bounds = (second["log_weight"] + second["model_energy_nats"]).quantile([0.01, 0.99])
    ratio = both["anchor_step"] * (both["log_weight"] + both["model_energy_nats"]).clip(*bounds)
    assert np.ptp(moved - ratio) < 1e-9  # log a ← log a + γ (−βE + E_θ) up to a constant


def second_round(results: Path, **align: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The weights of two rounds, the samples of the first being those of the pretrained model again."""
    run_align(results, "eba_round1", align=align)
    layout = Layout(results)
    shutil.copytree(layout.ensemble("pretrain", "ala").parent, layout.ensemble("eba_round1", "ala").parent)
    write_table(layout.energies("eba_round1", "ala"), energy_table(6, np.random.default_rng(9)))
    run_align(results, "eba_round2", align=align)
    first, second = (read_table(results / "align" / f"eba_round{r}" / "weights.parquet") for r in (1, 2))
    return first, second


def test_weights_given_once_are_kept(results: Path) -> None:
    first, second = second_round(results, anchor_update="new", anchor_step=1.0, anchor_ess_fraction=0.01)
    both = second.merge(first, on=["source", "conformer"], suffixes=("", "_before"))
    assert np.ptp(both["anchor_log_weight"] - both["anchor_log_weight_before"]) < 1e-9
    new = second[second["source"] == "eba_round1"]
    assert second["model_energy_nats"].notna().tolist() == (second["source"] == "eba_round1").tolist()
    smoothed, _ = pareto_smoothed((new["log_weight"] + new["model_energy_nats"]).to_numpy())
    assert np.ptp(new["anchor_log_weight"] - smoothed) < 1e-9
    # Each source counts by its effective sample size.
    for table in (first, second):
        of_source = table.groupby("source")["anchor_log_weight"]
        shares = of_source.apply(lambda w: np.exp(w).sum())
        sizes = of_source.apply(lambda w: effective_sample_size(w.to_numpy()))
        np.testing.assert_allclose(shares, sizes / sizes.sum())


def test_the_pool_is_tilted_by_what_the_last_model_drew_above_what_it_learned(results: Path) -> None:
    first, second = second_round(
        results, anchor_update="new", anchor_step=1.0, anchor_ess_fraction=0.01, energy_feedback=True
    )

    def energies(table: pd.DataFrame, source: str | None = None) -> np.ndarray:
        rows = table if source is None else table[table["source"] == source]
        return (rows["energy_kj_mol"] / thermal_energy_kj_mol(300.0)).to_numpy()

    weight = [table["anchor_log_weight"].to_numpy() for table in (first, second)]
    drawn = [mean_energy(energies(first, "pretrain")), mean_energy(energies(second, "eba_round1"))]
    learned = [mean_energy(energies(first, "training")), mean_energy(energies(first), weight[0])]
    seen, plain = np.subtract(drawn, learned), []
    for table, tilted, excess in zip((first, second), weight, (seen[0], seen.mean()), strict=True):
        (tilt,), (expected,) = set(table["anchor_tilt"]), set(table["anchor_excess"])
        plain.append(tilted + tilt * energies(table))
        assert expected == pytest.approx(excess)
        assert tilt * excess > 0
        taken = mean_energy(energies(table), plain[-1]) - mean_energy(energies(table), tilted)
        # All of it, or as much as leaves half of the effective sample size.
        left = effective_sample_size(tilted) / effective_sample_size(plain[-1])
        assert taken == pytest.approx(excess, abs=1e-4) or left == pytest.approx(0.5, abs=1e-3)
    # The second tilt is laid upon the weights themselves, not on the first one's.
    both = second.assign(plain=plain[1]).merge(first.assign(plain=plain[0]), on=["source", "conformer"])
    for _, rows in both.groupby("source"):
        assert np.ptp(rows["plain_x"] - rows["plain_y"]) < 1e-9


@pytest.mark.parametrize(("parent", "excess"), [("pretrain", 2.0), ("eba_round1", 2.5), ("eba_round2_seed7", 2.5)])
def test_the_expected_excess_is_smoothed_over_rounds(parent: str, excess: float) -> None:
    thermal = thermal_energy_kj_mol(300.0)
    columns = {"system": "ala", "temperature_kelvin": 300.0}
    md, drawn = np.linspace(-1.0, 1.0, 5), np.linspace(1.0, 3.0, 5)
    energy = thermal * np.concatenate([md, drawn])
    rows = pd.DataFrame({**columns, "source": ["training"] * 5 + [parent] * 5, "energy_kj_mol": energy})
    # What the parent learned has a mean of -1 kT, when 2 kT were expected of it; at another temperature of the ladder.
    last = pd.DataFrame({**columns, "energy_kj_mol": thermal * (md - 1.0), "anchor_log_weight": 0.0})
    last = last.assign(anchor_excess=2.0, anchor_tilt=0.0, temperature_kelvin=600.0)
    found = anchor._expected_excess(rows, parent, None if parent == "pretrain" else last)
    assert found == pytest.approx(excess)


def lose_energies(results: Path, ensemble: str) -> None:
    path = Layout(results).energies(ensemble, "ala")
    table = read_table(path)
    write_table(path, table.assign(status="not_finite", energy_kj_mol=np.nan))


def test_training_md_is_weighed_by_its_temperature(results: Path) -> None:
    first, second = second_round(
        results, anchor_update="new", anchor_step=1.0, anchor_ess_fraction=0.01, anchor_md="temperature"
    )
    md = first[first["source"] == "training"]
    (kelvin,) = set(first["anchor_md_kelvin"])
    u = md["energy_kj_mol"] / thermal_energy_kj_mol(300.0)
    slope = np.diff(md["anchor_log_weight"]) / np.diff(u)
    np.testing.assert_allclose(slope, 300.0 / kelvin - 1.0, atol=1e-6)
    # Samples have weights of their own, and frames keep theirs.
    drawn = first[first["source"] == "pretrain"]
    smoothed, _ = pareto_smoothed((drawn["log_weight"] + drawn["model_energy_nats"]).to_numpy())
    assert np.ptp(drawn["anchor_log_weight"] - smoothed) < 1e-9
    both = second.merge(md, on=["source", "conformer"], suffixes=("", "_before"))
    assert np.ptp(both["anchor_log_weight"] - both["anchor_log_weight_before"]) < 1e-9
    assert second["anchor_md_kelvin"].isna().all()


def test_some_frames_tell_the_temperature_of_all(results: Path) -> None:
    """Weights of the frames are those of their temperature, weighed by paths or not."""
    weigh_frames(results, max_md_conformers=10)
    n = len(read_ensemble(Layout(results).ensemble("pretrain", "ala")))
    kept = {"conformer": range(n), "log_density_nats": 50.0 + np.arange(n) / n, "standard_error_nats": np.nan}
    write_table(Layout(results).log_densities("pretrain", "ala"), pd.DataFrame(kept))
    once = {"anchor_update": "new", "anchor_md": "temperature", "anchor_energy": "path", "anchor_step": 1.0}
    run_align(results, "eba_round1", align=once | {"anchor_ess_fraction": 0.01}, diffusion={"superpose": False})
    weights = read_table(results / "align" / "eba_round1" / "weights.parquet")
    md = weights[weights["source"] == "training"]
    assert md["model_energy_nats"].notna().sum() == 9
    (kelvin,) = set(md["anchor_md_kelvin"])
    slope = np.diff(md["anchor_log_weight"]) / np.diff(md["energy_kj_mol"] / thermal_energy_kj_mol(300.0))
    np.testing.assert_allclose(slope, 300.0 / kelvin - 1.0, atol=1e-6)
    assert np.isfinite(weights["anchor_log_weight"]).all()


def test_md_at_a_temperature_needs_samples_to_tell_it(results: Path) -> None:
    lose_energies(results, "pretrain")
    with pytest.raises(StageError, match="no samples with energies, and its weights bridge the two"):
        run_align(results, "eba_round1", align={"anchor_update": "new", "anchor_md": "temperature"})


def test_the_pool_holds_the_latest_models_alone(results: Path) -> None:
    _, second = second_round(results, replay_models=1)
    assert set(second["source"]) == {"training", "eba_round1"}


@pytest.mark.parametrize("kind", ["exact", "hutchinson"])
def test_the_pools_energies_are_log_densities_of_the_flow(results: Path, kind: str) -> None:
    flow = {"anchor_energy": kind, "anchor_flow_steps": 6, "anchor_probes": 4}
    run_align(results, "eba_round1", align=flow, diffusion={"superpose": False})
    weights = read_table(results / "align" / "eba_round1" / "weights.parquet")
    weights = weights[weights["source"] == "pretrain"]
    model, _ = load_denoiser(results / "pretrain" / "model.safetensors")
    ensemble = read_ensemble(Layout(results).ensemble("pretrain", "ala"))
    chosen = centre(torch.as_tensor(ensemble.positions_nm[weights["conformer"].to_numpy()]))
    low, high = (getattr(Config().diffusion, key) * model.sigma_data_nm for key in ("sigma_min", "sigma_max"))
    levels = karras_sigma(6, sigma_min_nm=low, sigma_max_nm=high, rho=7.0)[:-1].flip(0)
    denoise, spread = model.on(molecule_graph(ensemble.molecule)), model.sigma_data_nm  # as samples start
    found = log_density(denoise, chosen, levels, trace=exact_trace(), order=4, data_spread_nm=spread)
    miss = weights["model_energy_nats"].to_numpy() + found.nats.numpy()
    # In single precision the way of a turned conformer differs a little; an estimated trace has noise.
    assert np.abs(miss).max() < (0.05 if kind == "exact" else 30.0)
    assert kind == "exact" or np.abs(miss).max() > 0.05


@pytest.mark.parametrize(
    ("kind", "error", "taken"),
    [("exact", 0.0, True), ("exact", 0.3, False), ("exact", np.nan, False), ("path", np.nan, True)],
)
def test_a_density_that_sampling_kept_is_not_worked_out_again(
    results: Path, kind: str, error: float, taken: bool
) -> None:
    path = Layout(results).log_densities("pretrain", "ala")
    n = len(read_ensemble(Layout(results).ensemble("pretrain", "ala")))
    kept = {"conformer": range(n), "log_density_nats": -1e6 - np.arange(n), "standard_error_nats": error}
    write_table(path, pd.DataFrame(kept))
    weigh_frames(results)
    flow = {"anchor_energy": kind, "anchor_flow_steps": 3, "anchor_update": "new"}
    run_align(results, "eba_round1", align=flow, diffusion={"superpose": False})
    weights = read_table(results / "align" / "eba_round1" / "weights.parquet")
    drawn = weights["source"] == "pretrain"
    energies = weights["model_energy_nats"][drawn].to_numpy()
    assert (energies == 1e6 + weights["conformer"][drawn].to_numpy()).all() == taken  # an estimate is not exact
    assert (weights["model_energy_nats"][~drawn].abs() < 1e5).all()
    made = read_json(results / "align" / "eba_round1" / "model.json")
    assert any(path.name in parent for parent in made["made_by"]["parents"])


def test_an_error_common_to_a_sources_densities_does_not_count_where_it_is_weighed_once(results: Path) -> None:
    path = Layout(results).log_densities("pretrain", "ala")
    n = len(read_ensemble(Layout(results).ensemble("pretrain", "ala")))
    weigh_frames(results)
    found = []
    for shift in (0.0, 30.0):
        kept = {"conformer": range(n), "log_density_nats": shift + np.arange(n) / n, "standard_error_nats": np.nan}
        write_table(path, pd.DataFrame(kept))
        paths = {"anchor_energy": "path", "anchor_update": "new", "anchor_step": 0.01}
        run_align(results, "eba_round1", align=paths, diffusion={"superpose": False})
        found.append(read_table(results / "align" / "eba_round1" / "weights.parquet"))
        of_source = found[-1].groupby("source")["anchor_log_weight"]
        shares = of_source.apply(lambda w: np.exp(w).sum() / effective_sample_size(w.to_numpy()))
        assert shares["pretrain"] == pytest.approx(shares["training"])
    np.testing.assert_allclose(found[0]["anchor_log_weight"], found[1]["anchor_log_weight"], atol=1e-6)


def test_frames_are_weighed_where_they_have_an_energy(results: Path) -> None:
    layout = Layout(results)
    scores = read_table(layout.energies("training", "ala"))
    scores.loc[[3, 30], "status"] = "not_finite"
    write_table(layout.energies("training", "ala"), scores)
    weigh_frames(results)
    path = layout.frame_log_densities("pretrain", "ala")
    table = read_table(path)
    assert table["conformer"].tolist() == [n for n in range(40) if n not in (3, 30)]
    assert np.isfinite(table["log_density_nats"]).all()
    assert read_json(path.with_suffix(".json"))["stage"] == "weigh"
    before = path.read_bytes()
    weigh_frames(results)
    assert path.read_bytes() == before


def test_a_round_by_paths_says_that_frames_were_not_weighed(results: Path) -> None:
    paths = {"anchor_energy": "path", "anchor_update": "new"}
    with pytest.raises(StageError, match="42 conformers of ala have no log-density by paths under pretrain"):
        run_align(results, "eba_round1", align=paths, diffusion={"superpose": False})


def test_some_frames_are_weighed_and_say_what_share_they_are(results: Path) -> None:
    weigh_frames(results, max_md_conformers=10)
    table = read_table(Layout(results).frame_log_densities("pretrain", "ala"))
    assert table["conformer"].tolist() == list(range(0, 40, 4))
    assert (table["share"] == 10 / 40).all()  # of one basin
    parents = read_json(results / "weigh" / "pretrain" / "ala.json")["parents"]
    assert any("posteriors" in parent for parent in parents)


def test_frames_are_weighed_by_kernels_of_the_same_molecule(results: Path) -> None:
    weigh_frames(results)
    kernels = Layout(results).posteriors("pretrain", "ala")
    other = read_json(kernels)
    write_json(kernels, other | {"stiffness": [row[:3] for row in other["stiffness"][:3]]})
    with pytest.raises(InputError, match="these are posteriors of 3 atoms; the molecule has 10"):
        weigh_frames(results)
    ragged, number = {"stiffness": [[0.0, 1.0], [1.0]]}, {"stiffness": 1.0}
    for broken in ({"scale": [1.0]}, other | ragged, other | number, other | {"scale": other["scale"][1:]}):
        write_json(kernels, broken)
        with pytest.raises(InputError, match="this file holds no posteriors"):
            weigh_frames(results)


def bridged(results: Path, max_md_conformers: int | None = None) -> None:
    """A round by bridge sampling, with log-densities of samples that sampling kept."""
    n = len(read_ensemble(Layout(results).ensemble("pretrain", "ala")))
    kept = {"conformer": range(n), "log_density_nats": 50.0 + np.arange(n) / n, "standard_error_nats": np.nan}
    write_table(Layout(results).log_densities("pretrain", "ala"), pd.DataFrame(kept))
    weigh_frames(results, max_md_conformers)
    bridge = {"anchor_update": "bridge", "replay_models": 1, "anchor_energy": "path"}
    run_align(results, "eba_round1", align=bridge, diffusion={"superpose": False})


def test_a_round_by_bridge_sampling(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = []
    monkeypatch.setattr(align, "draw_anchored", lambda pool, *rest: pools.append(pool) or draw_anchored(pool, *rest))
    bridged(results)
    # All training MD has weights, scored or not, and counts by its effective sample size.
    weight = pools[0].training_weight.double().numpy()
    assert weight.shape == pools[0].training_nm.shape[:1]
    assert (weight > 0).all()
    union = pools[0].anchor_weight.double().numpy()
    assert weight.sum() == pytest.approx(effective_sample_size(np.log(weight)) / effective_sample_size(np.log(union)))
    weights = read_table(results / "align" / "eba_round1" / "weights.parquet")
    good = weights[np.isfinite(weights["log_weight"])]
    assert good["model_energy_nats"].notna().all()
    assert np.exp(good["anchor_log_weight"]).sum() == pytest.approx(1.0)
    # Samples follow their ratios; frames follow the MD's bias, which is smoother than theirs.
    ratio = good["log_weight"] + good["model_energy_nats"]
    drawn = good["source"] == "pretrain"
    assert np.corrcoef(ratio[drawn], good["anchor_log_weight"][drawn])[0, 1] > 0
    assert np.ptp(good["anchor_log_weight"][~drawn]) < np.ptp(ratio[~drawn])


def test_frames_that_a_bridge_leaves_out_count_among_all_training_md(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = []
    monkeypatch.setattr(align, "draw_anchored", lambda pool, *rest: pools.append(pool) or draw_anchored(pool, *rest))
    bridged(results, max_md_conformers=10)
    weights = read_table(results / "align" / "eba_round1" / "weights.parquet")
    md = weights[weights["source"] == "training"]
    in_union = np.isfinite(md["anchor_log_weight"])
    assert md["conformer"][in_union].tolist() == [n for n in range(0, 40, 4) if n < 36]  # the others are validation
    assert (md["model_energy_nats"].notna() == in_union).all()
    assert np.isfinite(md["log_weight"]).all()  # the objective looks at all that is scored
    assert np.exp(weights["anchor_log_weight"]).sum() == pytest.approx(1.0)
    assert (pools[0].training_weight > 0).all()
    assert np.isfinite(read_table(results / "align" / "eba_round1" / "metrics.parquet")["loss"]).all()


def test_a_bridge_with_one_end_leaves_the_system_out(results: Path) -> None:
    lose_energies(results, "training")
    with pytest.raises(StageError, match="no frames of training MD with energies, and its weights bridge the two"):
        bridged(results)


def test_a_variant_is_made_with_its_own_settings(results: Path) -> None:
    variants = {"eba_free": StageConfig({"align": {"anchor": 0.0, "steps": 2}}).align.model_dump(mode="json")}
    own = {k: v for k, v in variants["eba_free"].items() if k not in ("objectives", "rounds", "variants")}
    run_align(results, "eba_free_round1", align={"variants": {"eba_free": own | {"group_size": 4}}})
    folder = results / "align" / "eba_free_round1"
    assert read_table(folder / "metrics.parquet")["step"].tolist() == [1, 2]
    assert read_table(folder / "weights.parquet")["model_energy_nats"].isna().all()  # no anchor: nothing worked out


def test_a_round_makes_its_steps_by_the_optimizer_that_is_named(results: Path) -> None:
    """After one step the two differ in matrices, which Muon moves, and in nothing else."""
    moved = {}
    for optimizer in ("adamw", "muon"):
        run_align(results, "eba_round1", align={"steps": 1, "optimizer": optimizer})
        moved[optimizer], _ = load_denoiser(results / "align" / "eba_round1" / "model.safetensors")
    pairs = zip(moved["adamw"].parameters(), moved["muon"].parameters(), strict=True)
    different = [p for p, q in pairs if not torch.equal(p, q)]
    assert different
    assert all(p.ndim == 2 for p in different)


def test_a_round_stops_at_the_lowest_loss_of_held_out_conformers(results: Path) -> None:
    """With a learning rate that spoils the model every step, the first validation is the best one."""
    spoiling = {"steps": 40, "learning_rate": 0.3, "validate_every_steps": 2, "patience": 2, "ema_halflife_steps": 0.1}
    run_align(results, "eba_round1", align=spoiling)
    curve = read_table(results / "align" / "eba_round1" / "metrics.parquet")
    validated = curve["validation_loss"].dropna()
    assert len(curve) < 40
    assert validated.argmin() == len(validated) - 3  # the best, and two more


def test_paper_weighting_runs(results: Path) -> None:
    run_align(results, "eba_round1", align={"weighting": "paper"})
    assert (
        read_json(results / "align" / "eba_round1" / "model.json")["made_by"]["settings"]["align"]["weighting"]
        == "paper"
    )


def test_a_section_that_was_not_handed_over_is_an_error(results: Path) -> None:
    with pytest.raises(Exception, match="was not handed the section 'align'"):
        align.run(stage_config("run", "systems"), results=results, model="eba_round1", seed=5, threads=1)


def test_groups_hold_the_asked_share_of_md() -> None:
    pool = Pool(
        system="x",
        graph=molecule_graph(alanine_dipeptide().molecule),
        training_nm=torch.zeros(20, 2, 3),
        positions_nm=torch.zeros(10, 2, 3),
        log_weight=torch.zeros(10),
        anchor_weight=torch.full((10,), 0.1),
        from_md=torch.arange(6),
        from_models=torch.arange(6, 10),
    )
    settings = stage_config("align", align={"group_size": 8, "data_fraction": 0.25}).align
    index = draw_group(pool, settings, torch.Generator().manual_seed(0))
    assert (index < 6).sum() == 2
    assert len(index) == 8


@pytest.mark.parametrize(("local_sigma", "share_of_md"), [(0.0, 0.0), (1e9, 1.0)])
def test_the_anchor_takes_md_at_low_noise_and_the_pool_above(local_sigma: float, share_of_md: float) -> None:
    """MD at the origin, a pool of one weighted conformer away from it: the targets say where each came from."""
    away = torch.zeros(3, 10, 3)
    away[:, 0], away[:, 1] = 1.0, -1.0
    pool = Pool(
        system="x",
        graph=molecule_graph(alanine_dipeptide().molecule),
        training_nm=torch.zeros(20, 10, 3),
        positions_nm=away,
        log_weight=torch.zeros(3),
        anchor_weight=torch.tensor([0.0, 1.0, 0.0]),
        from_md=torch.arange(2),
        from_models=torch.arange(2, 3),
    )
    settings = stage_config("align", "diffusion", align={"anchor_local_sigma": local_sigma})
    generator = torch.Generator().manual_seed(0)
    _, block = align._anchor_block(pool, 32, settings.align, settings.diffusion, 0.15, generator)
    assert (block.target_nm.abs().sum(dim=(1, 2)) == 0).double().mean() == share_of_md


def test_the_anchor_draws_scored_conformers_and_all_training_md_by_their_weights() -> None:
    """Two scored conformers at x = 1, 2 with weights ¼, ¾; three frames at x = 10, 20, 30 with 1, 0, 2 beside them."""
    place = torch.tensor([1.0, 2.0])[:, None, None].expand(2, 2, 3)
    pool = Pool(
        system="x",
        graph=molecule_graph(alanine_dipeptide().molecule),
        training_nm=torch.tensor([10.0, 20.0, 30.0])[:, None, None].expand(3, 2, 3),
        positions_nm=place,
        log_weight=torch.zeros(2),
        anchor_weight=torch.tensor([0.25, 0.75]),
        from_md=torch.arange(1),
        from_models=torch.arange(1, 2),
        training_weight=torch.tensor([1.0, 0.0, 2.0]),
    )
    drawn = draw_anchored(pool, 8000, torch.Generator().manual_seed(0))[:, 0, 0]
    shares = {value: (drawn == value).double().mean().item() for value in (1.0, 2.0, 10.0, 20.0, 30.0)}
    assert shares == pytest.approx({1.0: 1 / 16, 2.0: 3 / 16, 10.0: 1 / 4, 20.0: 0.0, 30.0: 1 / 2}, abs=0.02)
    kept, held = held_out(pool)  # frames that are not scored might be held out ones
    assert kept.training_weight is None
    assert held.training_weight is None


def test_energies_of_a_pool_do_not_depend_on_the_number_of_threads() -> None:
    dipeptide = alanine_dipeptide()
    torch.manual_seed(1)
    denoise = Denoiser(DenoiserSettings(features=16, pair_features=8, layers=1), sigma_data_nm=0.17).on(
        molecule_graph(dipeptide.molecule)
    )
    noise = torch.randn(50, *dipeptide.positions_nm.shape[1:], generator=torch.Generator().manual_seed(2))
    x = centre(torch.as_tensor(dipeptide.positions_nm[:1]) + 0.02 * noise)
    one, three = (
        pool_energies(denoise, x, AlignSettings(), DiffusionSettings(), 0.17, 3, threads=threads) for threads in (1, 3)
    )
    assert np.array_equal(one, three)
    assert len(one) == 50
    assert np.ptp(one) > 0
