"""Runs of particles from nothing to the report, in one process; the workflow itself is asked what it would do."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from in_process import run_everything

from ancdiff.artifacts import read_ensemble, read_json, read_table
from ancdiff.config import Config, StageConfig, parse_config
from ancdiff.corridor import Layout
from ancdiff.dataset.frames import MdFrames
from ancdiff.dataset.points import check_particles
from ancdiff.errors import ConfigError, InputError
from ancdiff.particles import particle_molecule
from ancdiff.preflight import check_systems
from ancdiff.report import collect, findings, particles
from ancdiff.workflow import Corridor

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Two exact systems and a cloud that is not trained on, aligned for one round beside a control."""
    root = tmp_path_factory.mktemp("exact")
    run_everything(HERE / "tiny-particles.yaml", root)
    return Layout(root)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Points alone, variance preserving, without energies and rounds."""
    root = tmp_path_factory.mktemp("points")
    run_everything(HERE / "tiny-points.yaml", root)
    return Layout(root)


def test_the_page_shows_what_applies(exact: Layout, points: Layout) -> None:
    for layout, there in ((exact, ("Energy distance", "Populations", "EBA, round 1")), (points, ("Chamfer distance",))):
        page = (layout.root / "report.html").read_text(encoding="utf-8")
        assert "from noise to shape" in page
        assert "Equivariance error" in page
        assert all(word in page for word in there)
        assert "Map divergence" not in page
        assert "Stereocentres" not in page
        figures = {path.stem for path in (layout.root / "report" / "figures").iterdir()}
        assert {"pair_distances", "pretraining"} <= figures
        assert any(name.startswith("reverse_path_") for name in figures)
        assert ("errors_per_step" in figures) == (layout is exact)
    assert "Energy distance" not in (points.root / "report.html").read_text(encoding="utf-8")


def test_metrics_that_apply_are_there_and_no_others(exact: Layout, points: Layout) -> None:
    both = {"chamfer_nm", "shape_rmsd_nm", "pair_distance_w1_nm", "equivariance_error_float64"}
    measured = read_table(exact.root / "evaluate" / "metrics.parquet")
    of_wells = set(measured[measured["system"] == "wells"]["metric"])
    assert both | {"population", "population_distance", "energy_w1_kt", "mean_energy_kt"} <= of_wells
    for metrics in (of_wells, set(read_table(points.root / "evaluate" / "metrics.parquet")["metric"])):
        assert both <= metrics
        assert not metrics & {"ramachandran_jsd", "stereocentres_right", "clashes", "rmsf_nm", "bond_spread_nm"}
    error = measured[measured["metric"] == "equivariance_error_float64"]
    assert len(error) == 3 * 3  # models × systems
    assert (error["value"] < 1e-12).all()


def test_energies_sum_up_what_has_them_and_large_errors_leave_small_ones_readable(exact: Layout) -> None:
    handed = StageConfig(read_json(exact.root / "evaluate" / "metrics.json")["settings"] | {"report": {}})
    run = collect.open_run(handed, exact.root)
    said = " ".join(findings.findings(run))
    assert "wells, pretrained: energies are" in said
    assert "wells, pretrained: the nearest held-out shape" not in said
    metrics = run.metrics.copy()
    far = metrics["ensemble"].eq("eba_round1") & metrics["metric"].isin(["mean_energy_kt", "energy_w1_kt"])
    metrics.loc[far, "value"] = 1000.0
    figure = particles.errors_per_step(dataclasses.replace(run, metrics=metrics))
    assert figure is not None
    scales = {panel.get_yscale(): panel.get_yticks() for panel in figure.axes}
    assert {0.0, 1.0, 1000.0} <= set(scales["symlog"])
    assert not (np.abs(scales["symlog"]) < 0.5)[scales["symlog"] != 0].any()


def test_energies_flow_to_alignment(exact: Layout) -> None:
    """kT is one reduced energy at 300 K: log-weights are −U up to a constant."""
    weights = read_table(exact.model("eba_round1").parent / "weights.parquet")
    for _, pool in weights.groupby("system"):
        reduced = pool["energy_kj_mol"].to_numpy() / 2.494338785
        difference = pool["log_weight"].to_numpy() + reduced
        assert np.isfinite(difference).any()
        assert np.nanstd(difference) < 1e-6
    assert set(weights["system"]) == {"wells", "dw4"}
    record = read_json(exact.energies("pretrain", "wells").with_suffix(".json"))
    assert record["scored"]["potential"] == "double_well"
    assert record["scored"]["d0"] == 4.0


def test_a_sample_keeps_its_way_from_noise(exact: Layout) -> None:
    conformers = exact.ensemble("pretrain", "dw4")
    path = read_ensemble(conformers.with_name("reverse.dcd")).positions_nm
    sigma = read_json(conformers.with_suffix(".json"))["reverse_sigma_nm"]
    assert len(path) == len(sigma)
    assert sigma == sorted(sigma, reverse=True)
    assert sigma[-1] == 0.0
    assert len(set(sigma)) == len(sigma) >= 6
    np.testing.assert_allclose(path[-1], read_ensemble(conformers).positions_nm[0], atol=1e-6)
    assert np.linalg.norm(path[0]) > np.linalg.norm(path[-1])


def test_training_shares_are_in_the_record(exact: Layout) -> None:
    record = read_json(exact.simulated("wells", "training").with_suffix(".json"))
    assert record["training_populations"] == [0.5, 0.5]
    assert record["exact_populations"] == [0.6818, 0.3182]
    assert "deviation" in read_json(exact.simulated("wells", "reference").with_suffix(".json"))


# ---------------------------------------------------------------------------------------------- what the workflow asks

SYSTEMS = {
    "ala": {"sequence": "ACE-ALA-NME"},
    "cloud": {"points": {"law": "sphere"}, "split": "test"},
    "dw": {"exact": {"potential": "double_well"}},
}


class Wildcards:
    def __init__(self, **names: str) -> None:
        self.__dict__.update(names)


def corridor(**changes: dict) -> Corridor:
    return Corridor(parse_config({"systems": SYSTEMS} | changes))


def test_points_are_not_scored_and_nothing_of_them_is_bundled() -> None:
    asked = corridor()
    energies = [str(path) for path in asked.evaluate_inputs(None)["energies"]]
    assert not any("cloud" in path for path in energies)
    assert any("dw" in path for path in energies)
    assert asked.simulate_inputs(Wildcards(system="dw", md="reference")) == []
    assert asked.simulate_inputs(Wildcards(system="ala", md="reference"))
    assert len(asked.evaluate_inputs(None)["networks"]) == len(asked.models)
    assert Corridor(parse_config({"systems": {"ala": SYSTEMS["ala"]}})).evaluate_inputs(None)["networks"] == []


def test_score_is_handed_the_exact_system_alone() -> None:
    asked = corridor()
    given = StageConfig(__import__("json").loads(asked.score_settings(Wildcards(system="dw"))))
    assert list(given.systems) == ["dw"]
    other = corridor(systems=SYSTEMS | {"lj": {"exact": {"potential": "lj13"}}})
    for system in ("ala", "dw"):
        assert asked.score_settings(Wildcards(system=system)) == other.score_settings(Wildcards(system=system))


def test_points_cannot_be_aligned() -> None:
    config = parse_config({"systems": {"cloud": {"points": {"law": "sphere"}}}})
    with pytest.raises(ConfigError, match="points have no energy to align a model with"):
        check_systems(config)
    check_systems(config.model_copy(update={"align": config.align.model_copy(update={"rounds": 0})}))


def test_data_of_other_particles_are_refused() -> None:
    system = Config.model_validate({"systems": SYSTEMS}).systems["dw"]
    frames = MdFrames(
        particle_molecule("dw", "double_well", 3),
        np.zeros((1, 3, 3), dtype=np.float32),
        np.zeros(1, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        (Path("topology.pdb"), Path("training.dcd")),
    )
    with pytest.raises(
        InputError, match=r"double_well, 2 particles in the configuration, but its data have 3 particles"
    ):
        check_particles(frames, system)
