"""The evaluate stage as a whole, on a fake run whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from fake_run import REFERENCE, TRAINING, build, config, mixture, populations_of, stage_config, write_fake_run

from ancdiff.artifacts import read_ensemble, read_json, read_table, write_ensemble, write_table
from ancdiff.basins import BASINS
from ancdiff.corridor import Layout, models
from ancdiff.errors import InputError
from ancdiff.evaluate import run, summarise
from ancdiff.evaluate.catalogue import HEADLINE, METRICS
from ancdiff.evaluate.comparison import Measurement, table
from ancdiff.evaluate.measure import EnsembleData, measure_system
from ancdiff.evaluate.resampling import Sampling, independent
from ancdiff.molecules import Ensemble, Molecule

SECTIONS = ("run", "systems", "forcefield", "align", "evaluate")
COLUMNS = "system ensemble metric residue basin against value low high floor unit n status model seed".split()  # noqa: SIM905
FREE_ENERGY_GAP_KT = np.sqrt(np.mean(np.log(np.array(TRAINING) / np.array(REFERENCE)) ** 2))

OF_REWEIGHTED = {"effective_share", "pareto_k", "log_density_error_nats"}  # test_evaluate_reweighting.py
OF_MOLECULES = {"cov_r", "mat_r_nm", "cov_p", "mat_p_nm", "median_strain_kt"}
OF_PARTICLES = {  # test_evaluate_particles.py
    "mean_energy_kt",
    "chamfer_nm",
    "shape_rmsd_nm",
    "pair_distance_w1_nm",
    "population_distance",
    "equivariance_error_float32",
    "equivariance_error_float64",
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "fake"
    write_fake_run(folder, config(), frames=2000, conformers=800)
    run(stage_config(config(), *SECTIONS), results=folder)
    return folder


@pytest.fixture(scope="module")
def metrics(run_folder):
    return read_table(run_folder / "evaluate" / "metrics.parquet")


def value(table, metric, ensemble, *, system="ala", against="", residue="", basin=""):
    rows = table[
        (table.metric == metric)
        & (table.ensemble == ensemble)
        & (table.system == system)
        & (table.against == against)
        & (table.residue == residue)
        & (table.basin == basin)
    ]
    assert len(rows) == 1, f"{len(rows)} rows of {metric}, {ensemble}, {against}"
    return rows.iloc[0]


def test_columns_and_catalogue(metrics, run_folder):
    assert list(metrics.columns) == COLUMNS
    assert set(metrics.metric) == set(METRICS) - OF_REWEIGHTED - OF_PARTICLES - OF_MOLECULES
    assert set(metrics.status) == {"ok"}
    assert set(metrics.against) == {"", "training", "reference"}
    assert set(metrics.ensemble) == {"training", "reference", *models(config())}
    keys = ["system", "ensemble", "metric", "residue", "basin", "against"]
    assert not metrics.duplicated(keys).any()
    assert metrics.value.notna().all()
    tsv = pd.read_csv(run_folder / "evaluate" / "metrics.tsv", sep="\t", keep_default_na=False, na_values=["nan"])
    assert len(tsv) == len(metrics)


def test_intervals_hold_their_values_and_bounds(metrics):
    bounded = metrics[metrics.low.notna()]
    assert len(bounded) > 500
    assert (bounded.low <= bounded.value + 1e-9).all()
    assert (bounded.high >= bounded.value - 1e-9).all()
    for name, metric in METRICS.items():
        rows = bounded[bounded.metric == name]
        assert (rows.low >= metric.lower - 1e-12).all()
        assert (rows.high <= metric.upper + 1e-12).all()


@pytest.mark.parametrize("ensemble", ["reference", "training", "eba_round1", "none_round2"])
def test_populations_of_the_mixture_are_found(metrics, ensemble):
    truth = populations_of(ensemble)
    for basin, expected in zip(BASINS, truth, strict=True):
        row = value(metrics, "population", ensemble, residue="ALA2", basin=basin)
        # Four standard errors of a binomial proportion; a Gaussian of 12° leaks less than 0.001 out of its basin.
        assert abs(row.value - expected) < 4 * np.sqrt(expected * (1 - expected) / row.n) + 2e-3


def test_free_energy_error_of_the_biased_and_the_aligned(metrics):
    biased = value(metrics, "free_energy_error_kt", "pretrain", against="reference")
    aligned = value(metrics, "free_energy_error_kt", "eba_round2", against="reference")
    control = value(metrics, "free_energy_error_kt", "none_round2", against="reference")
    # Standard errors of F are √((1−P)/(nP)): 0.10 for P = 0.05 of 2,000 frames and for 0.10 of 800; 0.25 is three.
    assert biased.value == pytest.approx(FREE_ENERGY_GAP_KT, abs=0.25)
    assert biased.low < FREE_ENERGY_GAP_KT < biased.high
    assert control.value == pytest.approx(FREE_ENERGY_GAP_KT, abs=0.25)
    assert aligned.value < 0.25 < biased.low
    assert 0 < aligned.floor < 0.25
    too_little = value(
        metrics, "free_energy_basin_error_kt", "pretrain", against="reference", residue="ALA2", basin="beta"
    )
    assert too_little.value == pytest.approx(np.log(REFERENCE[1] / TRAINING[1]), abs=0.3)


def test_the_pretrained_model_is_as_near_to_its_training_as_the_floor(metrics):
    same = value(metrics, "ramachandran_jsd", "pretrain", against="training")
    other = value(metrics, "ramachandran_jsd", "pretrain", against="reference")
    assert same.value < 1.3 * same.floor  # both are samples of one density, at one sample size
    assert other.value > 1.5 * other.floor
    assert same.n == 800


def test_md_against_itself_is_the_floor(metrics):
    for metric in ("ramachandran_jsd", "free_energy_error_kt", "energy_w1_kt", "bond_rms_error_nm"):
        row = value(metrics, metric, "reference", against="reference")
        assert row.value == row.floor > 0
        assert np.isnan(row.low)
        assert np.isnan(row.high)


def test_energies_and_failures(metrics):
    assert value(metrics, "energy_failed", "pretrain").value == pytest.approx(3 / 800)
    assert value(metrics, "energy_failed", "reference").value == 0
    assert value(metrics, "median_energy_kt", "pretrain", against="reference").value == pytest.approx(1.0, abs=0.35)
    assert value(metrics, "energy_w1_kt", "pretrain", against="reference").value == pytest.approx(1.0, abs=0.3)
    assert value(metrics, "median_energy_kt", "pretrain").n == 797


def test_geometry_of_the_jitter(metrics):
    # Two ends with jitter s in each coordinate: a bond's length spreads by √2 s.
    assert value(metrics, "bond_spread_nm", "reference").value == pytest.approx(0.002 * np.sqrt(2), rel=0.03)
    row = value(metrics, "bond_spread_error_nm", "pretrain", against="reference")
    assert row.value == pytest.approx(0.0005 * np.sqrt(2), rel=0.1)
    assert value(metrics, "stereocentres_right", "pretrain").value == 1
    assert value(metrics, "stereocentres_right", "pretrain", system="tri").n == 1600
    assert value(metrics, "stereocentres_right", "pretrain").low < 1  # 800 right ones do not prove 100 %
    assert value(metrics, "clashes", "pretrain").value == 0


def test_summary_averages_systems(run_folder, metrics):
    summary = read_table(run_folder / "evaluate" / "summary.parquet").set_index("ensemble")
    assert list(summary.index) == ["training", "reference", *models(config())]
    for column, (metric, against) in HEADLINE.items():
        if metric in OF_PARTICLES | OF_MOLECULES or against == "exact":  # not measured of peptides
            assert column not in summary
            continue
        expected = np.mean(
            [value(metrics, metric, "eba_round2", system=s, against=against).value for s in ("ala", "tri")]
        )
        assert summary.loc["eba_round2", column] == pytest.approx(expected)
    row = summary.loc["eba_round2"]
    assert row.systems == 2
    assert row.free_energy_error_kt_low <= row.free_energy_error_kt <= row.free_energy_error_kt_high
    one = value(metrics, "median_energy_kt", "eba_round2", against="reference")
    assert row.median_energy_kt_high - row.median_energy_kt_low < one.high - one.low  # two systems average noise
    assert (run_folder / "evaluate" / "summary.tsv").is_file()


def test_summary_without_replicates_has_no_interval():
    rows = [Measurement("a", "reference", "clashes", 1.0, 5), Measurement("b", "reference", "clashes", 2.0, 5)]
    summary = summarise(rows, ["reference"]).iloc[0]
    assert summary.clashes == 1.5
    assert np.isnan(summary.clashes_low)
    assert not [column for column in summary.index if column.startswith("energy_w1_kt")]


def test_the_record_says_what_made_the_tables(run_folder):
    record = read_json(run_folder / "evaluate" / "metrics.json")
    assert record["seed"] == config().evaluate.seed
    assert len(record["code_stamp"]) == 16
    assert "eba_round2/ala/conformers.dcd" in record["parents"]


def small_run(folder):
    settings = config(align={"objectives": ["eba"], "rounds": 1})
    write_fake_run(folder, settings, frames=60, conformers=30)
    return settings


def test_same_seed_same_tables_and_another_moves_intervals_only(tmp_path):
    settings = small_run(tmp_path)
    run(stage_config(settings, *SECTIONS), results=tmp_path)
    first = read_table(tmp_path / "evaluate" / "metrics.parquet")
    run(stage_config(settings, *SECTIONS), results=tmp_path)
    pd.testing.assert_frame_equal(read_table(tmp_path / "evaluate" / "metrics.parquet"), first)
    other = config(
        align={"objectives": ["eba"], "rounds": 1}, evaluate={"bootstrap_repeats": 40, "floor_draws": 4, "seed": 8}
    )
    run(stage_config(other, *SECTIONS), results=tmp_path)
    second = read_table(tmp_path / "evaluate" / "metrics.parquet")
    fixed = first.metric.isin(["population", "bond_rms_error_nm", "median_energy_kt", "clashes"]) & (
        first.ensemble != first.against
    )
    np.testing.assert_array_equal(first.value[fixed], second.value[fixed])
    assert not first.low[fixed].equals(second.low[fixed])


def test_failed_missing_and_non_finite_are_counted_not_fatal(tmp_path):
    settings = small_run(tmp_path)
    layout = Layout(tmp_path)
    layout.energies("eba_round1", "ala").unlink()
    table = read_table(layout.energies("pretrain", "ala"))
    table["status"] = "clash"
    write_table(layout.energies("pretrain", "ala"), table)
    broken = read_ensemble(layout.ensemble("pretrain", "ala"), name="ala")
    positions = broken.positions_nm.copy()
    positions[[3, 7], 2] = np.nan
    write_ensemble(layout.ensemble("pretrain", "ala"), Ensemble(broken.molecule, positions))
    write_ensemble(layout.ensemble("eba_round1", "tri"), build(np.full((30, 2, 2), np.nan)))
    run(stage_config(settings, *SECTIONS), results=tmp_path)
    metrics = read_table(tmp_path / "evaluate" / "metrics.parquet")
    assert value(metrics, "energy_failed", "pretrain").value == 1
    assert value(metrics, "conformers_finite", "pretrain").value == pytest.approx(28 / 30)
    assert value(metrics, "stereocentres_right", "pretrain").n == 28
    assert value(metrics, "conformers_finite", "eba_round1", system="tri").value == 0
    assert set(metrics[(metrics.ensemble == "eba_round1") & (metrics.system == "tri")].metric) == {"conformers_finite"}
    absent = metrics[(metrics.ensemble == "eba_round1") & (metrics.system == "ala")].metric
    assert not absent.str.contains("energy_w1|energy_failed").any()
    summary = read_table(tmp_path / "evaluate" / "summary.parquet").set_index("ensemble")
    assert np.isnan(summary.loc["eba_round1", "energy_w1_kt"])


def test_without_reference_md_only_the_training_md_is_compared_with(tmp_path):
    settings = small_run(tmp_path)
    for system in ("ala", "tri"):
        Layout(tmp_path).ensemble("reference", system).unlink()
    run(stage_config(settings, *SECTIONS), results=tmp_path)
    metrics = read_table(tmp_path / "evaluate" / "metrics.parquet")
    assert set(metrics.against) == {"", "training"}
    summary = read_table(tmp_path / "evaluate" / "summary.parquet").set_index("ensemble")
    assert np.isfinite(summary.loc["pretrain", "ramachandran_jsd_training"])
    assert "ramachandran_jsd" not in summary


def test_missing_samples_are_named(tmp_path):
    settings = small_run(tmp_path)
    path = Layout(tmp_path).ensemble("eba_round1", "tri")
    path.unlink()
    with pytest.raises(InputError, match="no such file") as problem:
        run(stage_config(settings, *SECTIONS), results=tmp_path)
    assert str(path) in str(problem.value)


def test_a_split_of_other_frames_is_refused(tmp_path):
    settings = small_run(tmp_path)
    split = read_table(tmp_path / "dataset" / "split.parquet")
    write_table(tmp_path / "dataset" / "split.parquet", split[split.frame < 50])
    with pytest.raises(InputError, match="50 frames of this MD, its trajectory 60"):
        run(stage_config(settings, *SECTIONS), results=tmp_path)


def test_energies_of_other_conformers_are_refused(tmp_path):
    settings = small_run(tmp_path)
    path = Layout(tmp_path).energies("pretrain", "ala")
    write_table(path, read_table(path).assign(conformer=np.arange(30) + 5))
    with pytest.raises(InputError, match="conformer 31 was scored"):
        run(stage_config(settings, *SECTIONS), results=tmp_path)


def test_the_helper_builds_what_it_says():
    from ancdiff.basins import ramachandran

    wanted = mixture(REFERENCE, 50, np.random.default_rng(1), residues=3)
    residues, found = ramachandran(build(wanted, rng=np.random.default_rng(2)))
    assert residues == [1, 2, 3]
    turns = (np.degrees(found) - wanted + 180) % 360 - 180
    assert np.abs(turns).max() < 0.01  # float32 coordinates


def test_a_molecule_without_residues_has_geometry_and_no_maps():
    rng = np.random.default_rng(0)
    molecule = Molecule(
        name="ethanol",
        atom_names=("C1", "C2", "O1"),
        elements=("C", "C", "O"),
        residue_names=("LIG",),
        residue_of_atom=np.zeros(3, dtype=np.int64),
        bonds=np.array([[0, 1], [1, 2]]),
    )
    chain = np.array([[0, 0, 0], [0.15, 0, 0], [0.2, 0.13, 0]])

    def data(name, sampling, spread_nm):
        positions = (chain + spread_nm * rng.normal(size=(len(sampling), 3, 3))).astype(np.float32)
        return EnsembleData(name, Ensemble(molecule, positions), sampling, 0, None)

    halves = Sampling(np.arange(400), np.arange(400) % 2)
    ensembles = [data("training", halves, 0.002), data("pretrain", independent(200), 0.004)]
    measured = table(measure_system("ethanol", ensembles, config().evaluate))
    assert not set(measured.metric) & {"ramachandran_jsd", "population", "stereocentres_right", "energy_w1_kt"}
    found = value(measured, "bond_spread_error_nm", "pretrain", system="ethanol", against="training").value
    assert found == pytest.approx(0.002 * np.sqrt(2), rel=0.15)
    assert value(measured, "clashes", "pretrain", system="ethanol").value == 0
