"""The simulate stage: repeatable, resumable after a kill, and the bundled data are whole and agree with a fresh run."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ancdiff import simulate
from ancdiff.artifacts import read_ensemble, read_json, read_table
from ancdiff.basins import BASINS, assign_basins, ramachandran
from ancdiff.config import ForcefieldSettings, ScoreSettings, StageConfig, load_config, parse_config
from ancdiff.errors import ConfigError, InputError
from ancdiff.forcefield import dynamics
from ancdiff.forcefield.build import build_peptide
from ancdiff.forcefield.energies import Scorer
from ancdiff.forcefield.system import create_system
from ancdiff.molecules import Ensemble, signed_volumes
from ancdiff.origins import BUNDLED_MD
from ancdiff.units import thermal_energy_kj_mol

REPOSITORY = Path(__file__).resolve().parent.parent
TINY_TRAINING = {"replicas": 3, "replica_ps": 0.4, "equilibration_ps": 0.2, "frame_interval_ps": 0.1}
TINY_REFERENCE = {
    "repeats": 2,
    "replica_ns": 0.0016,
    "equilibration_ns": 0.0004,
    "hotter_kelvin": [400.0],
    "exchange_interval_ps": 0.1,
    "frame_interval_ps": 0.2,
}


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "_SEGMENT_PS", 0.4)


def tiny(**changes: Any) -> StageConfig:
    """Settings of a run of seconds; ``changes`` are keys of the section simulate."""
    section = {"source": "run", "training": TINY_TRAINING, "reference": TINY_REFERENCE} | changes
    system = {"sequence": "ACE-ALA-NME", "training_basins": {"alpha_r": 1.0}}
    return StageConfig({"run": {}, "systems": {"ala": system}, "forcefield": {}, "simulate": section})


def positions(results: Path, md: str) -> np.ndarray:
    return read_ensemble(results / "simulate" / "ala" / f"{md}.dcd").positions_nm


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both data sets of the tiny run."""
    results = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "_SEGMENT_PS", 0.4)
        for md in ("training", "reference"):
            simulate.run(tiny(), system="ala", md=md, results=results)
    return results


@pytest.mark.parametrize(("md", "replicas", "frames", "interval"), [("training", 3, 4, 0.1), ("reference", 2, 8, 0.2)])
def test_each_data_set_has_its_files(made: Path, md: str, replicas: int, frames: int, interval: float) -> None:
    folder = made / "simulate" / "ala"
    ensemble = read_ensemble(folder / f"{md}.dcd")
    assert set(ensemble.molecule.elements) == {"C", "N", "O"}
    assert (signed_volumes(ensemble.positions_nm, ensemble.molecule.stereocentres) > 0).all()
    table = read_table(folder / f"{md}.parquet")
    assert table["frame"].tolist() == list(range(replicas * frames)) == list(range(len(ensemble)))
    assert table["replica"].tolist() == [r for r in range(replicas) for _ in range(frames)]
    assert table["time_ps"].to_numpy()[:frames] == pytest.approx(interval * np.arange(1, frames + 1))
    record = read_json(folder / f"{md}.json")
    assert record["stage"] == "simulate"
    assert record["seed"] == record["md"]["seed"] == 2026
    assert record["md"]["sequence"] == "ACE-ALA-NME"
    assert not list(folder.glob(".*")), "the work folders go when the data are there"


def test_frames_of_all_atoms_have_bonds_to_hydrogen_that_vibrate(tmp_path: Path) -> None:
    """Each stretches as its spring says: ⟨(r − ⟨r⟩)²⟩ = kT/k."""
    training = {"replicas": 8, "replica_ps": 6.0, "equilibration_ps": 1.0, "frame_interval_ps": 0.05}
    settings = tiny(atoms="all", timestep_fs=2.0, training=training)
    simulate.run(settings, system="ala", md="training", results=tmp_path)
    folder = tmp_path / "simulate" / "ala"
    ensemble = read_ensemble(folder / "training.dcd")
    assert ensemble.molecule.elements.count("H") == 12
    assert read_json(folder / "training.json")["md"]["atoms"] == "all"
    peptide = build_peptide("ala", "ACE-ALA-NME", ForcefieldSettings())
    system = create_system(peptide.topology, ForcefieldSettings())
    springs = next(force for force in system.getForces() if type(force).__name__ == "HarmonicBondForce")
    for i, j, _, spring in (springs.getBondParameters(b) for b in range(springs.getNumBonds())):
        if "H" in (ensemble.molecule.elements[i], ensemble.molecule.elements[j]):
            stretched = np.linalg.norm(ensemble.positions_nm[:, i] - ensemble.positions_nm[:, j], axis=1)
            assert stretched.std() == pytest.approx(np.sqrt(thermal_energy_kj_mol(300.0) / spring._value), rel=0.15)


def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(made: Path, tmp_path: Path) -> None:
    for md in ("training", "reference"):
        simulate.run(tiny(), system="ala", md=md, results=tmp_path / "again")
        np.testing.assert_array_equal(positions(made, md), positions(tmp_path / "again", md))
    simulate.run(tiny(seed=1), system="ala", md="training", results=tmp_path / "other")
    assert not np.array_equal(positions(made, "training"), positions(tmp_path / "other", "training"))
    again, first = (root / "simulate" / "ala" / "topology.pdb" for root in (tmp_path / "again", made))
    assert first.read_bytes() == again.read_bytes()


def test_repeats_side_by_side_give_the_same_reference(made: Path, tmp_path: Path) -> None:
    simulate.run(tiny(), system="ala", md="reference", results=tmp_path, threads=2)
    np.testing.assert_array_equal(positions(tmp_path, "reference"), positions(made, "reference"))
    records = [read_json(root / "simulate" / "ala" / "reference.json") for root in (tmp_path, made)]
    assert records[0]["exchange_acceptance"] == records[1]["exchange_acceptance"]


def test_repeats_whose_processes_die_are_made_here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "_make_repeat", os._exit)  # which takes one argument, not six
    simulate.run(tiny(), system="ala", md="reference", results=tmp_path, threads=2)
    np.testing.assert_array_equal(positions(tmp_path, "reference"), positions(made, "reference"))


@pytest.mark.parametrize(
    ("md", "function", "whole"), [("training", "run_langevin", 3), ("reference", "run_exchange", 10)]
)
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, md: str, function: str, whole: int
) -> None:
    calls: list[int] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return getattr(dynamics, function)(*arguments, **named)

    monkeypatch.setattr(simulate, function, counted)
    with pytest.raises(KeyboardInterrupt):
        simulate.run(tiny(), system="ala", md=md, results=tmp_path)
    assert not (tmp_path / "simulate" / "ala" / f"{md}.dcd").exists()
    simulate.run(tiny(), system="ala", md=md, results=tmp_path)
    assert len(calls) == whole + 1, "the two finished parts are not made again"
    np.testing.assert_array_equal(positions(tmp_path, md), positions(made, md))


def test_other_settings_do_not_take_a_killed_runs_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulate, "select_atoms", stopped)  # after the dynamics, before the artifact
        with pytest.raises(KeyboardInterrupt):
            simulate.run(tiny(seed=5), system="ala", md="training", results=tmp_path)
    assert len(list((tmp_path / "simulate" / "ala").glob(".training-*/replica_*.npz"))) == 3
    simulate.run(tiny(), system="ala", md="training", results=tmp_path)
    np.testing.assert_array_equal(positions(tmp_path, "training"), positions(made, "training"))


@pytest.fixture
def bundle(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny run as bundled data."""
    folder = tmp_path / "bundle"
    (folder / "ala").mkdir(parents=True)
    lines = []
    for path in sorted((made / "simulate" / "ala").iterdir()):
        content = path.read_bytes()
        (folder / "ala" / path.name).write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  ala/{path.name}\n")
    (folder / simulate.CHECKSUMS).write_text("".join(lines))
    monkeypatch.setattr(simulate, "BUNDLED_MD", folder)
    return folder


def test_bundled_data_are_copied_as_they_are(bundle: Path, tmp_path: Path) -> None:
    simulate.run(tiny(source="bundled"), system="ala", md="reference", results=tmp_path / "run")
    for name in ("reference.dcd", "reference.json", "reference.parquet", "topology.pdb"):
        assert (tmp_path / "run" / "simulate" / "ala" / name).read_bytes() == (bundle / "ala" / name).read_bytes()


def test_bundled_data_of_other_settings_stop_and_say_what_differs(bundle: Path, tmp_path: Path) -> None:
    settings = tiny(source="bundled", timestep_fs=2.0, training=TINY_TRAINING | {"replica_ps": 0.8})
    with pytest.raises(ConfigError) as caught:
        simulate.run(settings, system="ala", md="training", results=tmp_path / "run")
    said = str(caught.value)
    assert "timestep_fs: bundled 4.0, here 2.0" in said
    assert "training.replica_ps: bundled 0.4, here 0.8" in said
    assert "simulate.source: run" in said
    assert not (tmp_path / "run").exists()


def test_settings_that_the_frames_do_not_depend_on_may_differ(bundle: Path, tmp_path: Path) -> None:
    settings = tiny(source="bundled", reference=TINY_REFERENCE | {"repeats": 5}).as_dict()
    settings["forcefield"]["platform"] = "CPU"
    settings["run"]["seeds"] = [1]
    simulate.run(StageConfig(settings), system="ala", md="training", results=tmp_path / "run")


def test_damaged_or_missing_bundled_data_stop(bundle: Path, tmp_path: Path) -> None:
    content = bytearray((bundle / "ala" / "training.dcd").read_bytes())
    content[-10] ^= 1
    (bundle / "ala" / "training.dcd").write_bytes(content)
    with pytest.raises(InputError, match=r"training\.dcd is not the one that SHA256SUMS lists"):
        simulate.run(tiny(source="bundled"), system="ala", md="training", results=tmp_path / "run")
    (bundle / "ala" / "training.dcd").unlink()
    with pytest.raises(InputError, match="no bundled training MD of system 'ala'"):
        simulate.run(tiny(source="bundled"), system="ala", md="training", results=tmp_path / "run")


def test_only_systems_with_a_sequence_are_simulated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="system 'val' is not given as a sequence"):
        simulate.run(tiny(), system="val", md="training", results=tmp_path)
    with pytest.raises(ConfigError, match="no MD data set 'traning'"):
        simulate.run(tiny(), system="ala", md="traning", results=tmp_path)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"timestep_fs": 3.0}, r"training\.frame_interval_ps \(0\.5 ps\) must be a whole multiple of timestep_fs"),
        ({"reference": {"exchange_interval_ps": 0.25}}, r"reference\.exchange_interval_ps \(0\.25 ps\) must be"),
        ({"reference": {"frame_interval_ps": 0.5}}, r"reference\.frame_interval_ps .* of exchange_interval_ps"),
    ],
)
def test_intervals_that_are_not_whole_stop_before_the_first_job(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"simulate": section})


def test_free_bonds_to_hydrogen_need_short_steps() -> None:
    with pytest.raises(ConfigError, match=r"needs 'timestep_fs' of at most 2, not 4"):
        parse_config({"simulate": {"atoms": "all"}})


def test_the_ladder_rises_from_the_temperature_of_the_force_field() -> None:
    assert simulate.temperature_ladder(300.0, (400.0, 530.0)) == (300.0, 400.0, 530.0)
    with pytest.raises(ConfigError, match="do not rise"):
        simulate.temperature_ladder(420.0, (400.0, 530.0))


def test_seeds_are_stable_and_shares_sum_to_one() -> None:
    # Bundled data depend on these numbers: they must not change with the version of Python.
    digest = hashlib.sha256(b"2026/ala/noise/training/0").hexdigest()
    assert simulate.derived_seed(2026, "ala", "noise", "training", 0) == 1 + int(digest[:8], 16) % (2**31 - 2)
    assert len({simulate.derived_seed(2026, "ala", n) for n in range(1000)}) == 1000
    assert simulate.basin_shares({"beta": 3.0, "alpha_r": 1.0}) == {"alpha_r": 0.25, "beta": 0.75, "alpha_l": 0.0}
    assert simulate.basin_shares({}) == {basin: pytest.approx(1 / 3) for basin in BASINS}


# The bundled data of the default run.

BUNDLED_SETS = sorted(BUNDLED_MD.glob("*/*.dcd"))


def bundled_ids(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def test_the_default_run_has_all_its_bundled_data() -> None:
    systems = load_config(REPOSITORY / "config.yaml").systems
    wanted = {f"{name}-{md}" for name, one in systems.items() if one.sequence for md in ("training", "reference")}
    assert wanted <= {bundled_ids(path) for path in BUNDLED_SETS}
    assert sum(path.stat().st_size for path in BUNDLED_MD.rglob("*")) <= 20e6


@pytest.mark.parametrize("path", BUNDLED_SETS, ids=bundled_ids)
def test_bundled_data_are_those_of_the_default_settings(path: Path, tmp_path: Path) -> None:
    """Checksums hold, and the records agree with config.yaml."""
    config = load_config(REPOSITORY / "config.yaml")
    settings = StageConfig(json.loads(config.sections("run", "systems", "forcefield", "simulate")))
    simulate.run(settings, system=path.parent.name, md=path.stem, results=tmp_path)
    ensemble = read_ensemble(tmp_path / "simulate" / path.parent.name / path.name)
    assert (signed_volumes(ensemble.positions_nm, ensemble.molecule.stereocentres) > 0).all()
    assert len(read_table(path.with_suffix(".parquet"))) == len(ensemble) >= 3000


@pytest.mark.slow
def test_a_short_fresh_run_agrees_with_the_bundled_training_data(tmp_path: Path) -> None:
    """Another seed, 24 replicas of ala: same geometry, same basins within the error of so few replicas."""
    path = BUNDLED_MD / "ala" / "training.dcd"
    record = read_json(path.with_suffix(".json"))["md"]
    system = {"sequence": record["sequence"], "training_basins": record["training_basins"]}
    section = {"source": "run", "seed": 1, "training": record["training"] | {"replicas": 24}}
    section |= {key: record[key] for key in ("timestep_fs", "hydrogen_mass_amu", "friction_per_ps")}
    settings = StageConfig({"run": {}, "systems": {"ala": system}, "forcefield": {}, "simulate": section})
    simulate.run(settings, system="ala", md="training", results=tmp_path)
    fresh, bundled = read_ensemble(tmp_path / "simulate" / "ala" / "training.dcd"), read_ensemble(path)
    assert fresh.molecule.atom_names == bundled.molecule.atom_names
    for moment in (np.mean, np.std):
        # Bonds spread by 0.003 nm: 480 nearly independent frames give mean and spread to 0.00014 nm, four times that.
        np.testing.assert_allclose(
            moment(bond_lengths_nm(fresh), axis=0), moment(bond_lengths_nm(bundled), axis=0), atol=6e-4
        )
    populations, errors = zip(*(basin_populations(e, p) for e, p in ((fresh, 24), (bundled, 200))), strict=True)
    assert np.abs(populations[0] - populations[1]).max() < 4 * np.hypot(*errors).max()
    assert (populations[1][:2] > 0.05).all()
    (fresh_mean, fresh_error), (mean, error) = (relaxed_energy_kj_mol(e) for e in (fresh, bundled))
    assert abs(fresh_mean - mean) < 4 * np.hypot(fresh_error, error)


def bond_lengths_nm(ensemble: Ensemble) -> np.ndarray:
    ends = ensemble.positions_nm[:, ensemble.molecule.bonds]
    return np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=-1)


def basin_populations(ensemble: Ensemble, replicas: int) -> tuple[np.ndarray, np.ndarray]:
    """Populations and their standard errors over replicas."""
    _, phi_psi = ramachandran(ensemble)
    is_in = assign_basins(phi_psi)[:, 0, None] == np.arange(len(BASINS))
    by_replica = is_in.reshape(replicas, -1, len(BASINS)).mean(axis=1)
    return by_replica.mean(axis=0), by_replica.std(axis=0, ddof=1) / np.sqrt(replicas)


def relaxed_energy_kj_mol(ensemble: Ensemble) -> tuple[float, float]:
    """Mean energy with hydrogens relaxed, and its standard error, of frames at least 5 ps apart."""
    frames = np.arange(0, len(ensemble), max(10, len(ensemble) // 100))
    scorer = Scorer(ensemble.molecule, ensemble.positions_nm[0], ForcefieldSettings(), ScoreSettings())
    rows = list(scorer.rows(frames, ensemble.positions_nm[frames]))
    assert all(row["status"] == "ok" for row in rows)
    energies = np.array([row["energy_kj_mol"] for row in rows])
    return float(energies.mean()), float(energies.std(ddof=1) / np.sqrt(len(energies)))
