"""The stage `score`: from files to a table, one row for each conformer, and on from where it was killed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ancdiff import score
from ancdiff.artifacts import read_json, read_table, write_ensemble
from ancdiff.config import ForcefieldSettings, StageConfig
from ancdiff.errors import InputError
from ancdiff.forcefield.build import Peptide, build_peptide, start_structure
from ancdiff.forcefield.energies import Scorer
from ancdiff.forcefield.topology import select_atoms
from ancdiff.molecules import ENERGY_COLUMNS, Ensemble, Molecule


@pytest.fixture(scope="module")
def alanine() -> Peptide:
    return build_peptide("ala", "ACE-ALA-NME", ForcefieldSettings())


def heavy(peptide: Peptide) -> Molecule:
    return select_atoms(peptide.molecule, peptide.heavy)


def conformers_of(peptide: Peptide, number: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    start = start_structure(peptide, ForcefieldSettings(), ["beta"])[peptide.heavy]
    return (start + rng.normal(scale=0.003, size=(number, len(start), 3))).astype(np.float32)


@pytest.fixture
def trajectory(alanine: Peptide, tmp_path: Path) -> Path:
    path = tmp_path / "ala" / "conformers.dcd"
    write_ensemble(path, Ensemble(heavy(alanine), conformers_of(alanine, 12)))
    return path


REAL = Path(os.environ.get("ANCDIFF_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real structures at {REAL} (ANCDIFF_TEST_DATA)")


def settings(**changes: Any) -> StageConfig:
    return StageConfig({"systems": {}, "forcefield": {"platform": "Reference"}, "score": changes})


def run(
    trajectory: Path, output: Path, *, maximum: int | None = None, topology: Path | None = None, **changes: Any
) -> pd.DataFrame:
    score.run(
        settings(**changes),
        topology=topology or trajectory.parent / "topology.pdb",
        conformers=trajectory,
        output=output,
        max_conformers=maximum,
        threads=1,
    )
    return read_table(output)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the conformers that were computed rather than taken from an earlier try."""
    numbers: list[int] = []
    honest = Scorer.rows

    def counting(self: Scorer, conformers: Any, positions_nm: Any) -> Iterator[dict[str, Any]]:
        for row in honest(self, conformers, positions_nm):
            numbers.append(row["conformer"])
            yield row

    monkeypatch.setattr(Scorer, "rows", counting)
    return numbers


def test_the_table_has_a_row_for_each_conformer_and_is_the_same_each_time(trajectory: Path, tmp_path: Path) -> None:
    first = run(trajectory, tmp_path / "a" / "ala.parquet")
    second = run(trajectory, tmp_path / "b" / "ala.parquet")
    assert list(first.columns) == list(ENERGY_COLUMNS)
    assert first["conformer"].tolist() == list(range(12))
    assert (first["status"] == "ok").all()
    pd.testing.assert_frame_equal(
        first.drop(columns="wall_seconds"), second.drop(columns="wall_seconds"), check_exact=True
    )
    assert (first["displacement_nm"] < 1e-7).all()  # heavy atoms stay
    assert (first["energy_kj_mol"] < first["energy_placed_kj_mol"]).all()
    record = read_json(tmp_path / "a" / "ala.json")
    assert record["scored"]["failures"] == {}
    assert record["scored"]["platform"] == "Reference"
    assert not list((tmp_path / "a").rglob("rows_*"))


def test_evenly_spaced_conformers_keep_their_numbers_and_energies(trajectory: Path, tmp_path: Path) -> None:
    every = run(trajectory, tmp_path / "all.parquet")
    some = run(trajectory, tmp_path / "some.parquet", maximum=5)
    assert some["conformer"].tolist() == [0, 2, 4, 7, 9]
    assert np.array_equal(some["energy_kj_mol"], every["energy_kj_mol"].iloc[[0, 2, 4, 7, 9]])
    assert score.evenly_spaced(3, 5).tolist() == [0, 1, 2]


def test_a_killed_run_goes_on_with_what_is_missing(
    trajectory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scored: list[int]
) -> None:
    whole = run(trajectory, tmp_path / "whole" / "ala.parquet")
    scored.clear()
    monkeypatch.setattr(score, "_KEEP_EVERY_SECONDS", 0.0)  # keep every row at once
    counted = Scorer.rows

    def dying(self: Scorer, conformers: Any, positions_nm: Any) -> Iterator[dict[str, Any]]:
        for k, row in enumerate(counted(self, conformers, positions_nm)):
            if k == 8:
                raise KeyboardInterrupt
            yield row

    output = tmp_path / "cut" / "ala.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "rows", dying)
        with pytest.raises(KeyboardInterrupt):
            run(trajectory, output)
    assert not output.exists()
    scored.clear()
    resumed = run(trajectory, output)
    assert scored == [8, 9, 10, 11]
    pd.testing.assert_frame_equal(whole.drop(columns="wall_seconds"), resumed.drop(columns="wall_seconds"))
    assert not (tmp_path / "cut" / ".work").exists()


def test_other_settings_do_not_take_the_rows_of_a_killed_run(
    trajectory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scored: list[int]
) -> None:
    monkeypatch.setattr(score, "_KEEP_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(score, "write_json", _killed)
    with pytest.raises(KeyboardInterrupt):
        run(trajectory, tmp_path / "ala.parquet")
    monkeypatch.undo()
    table = run(trajectory, tmp_path / "ala.parquet", relax="none")
    # One is a sum of parts, the other one state's energy: equal up to rounding, unlike those of the killed run.
    assert np.allclose(table["energy_kj_mol"], table["energy_placed_kj_mol"], rtol=1e-12)


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_failed_conformers_keep_their_rows_and_are_counted(alanine: Peptide, tmp_path: Path) -> None:
    positions_nm = conformers_of(alanine, 5)
    positions_nm[0, 2] = np.nan
    positions_nm[2, 4] = positions_nm[2, 0]
    positions_nm[3] *= np.float32(-1)  # mirrored: D
    path = tmp_path / "bad" / "conformers.dcd"
    write_ensemble(path, Ensemble(heavy(alanine), positions_nm))
    (path.parent / "topology.pdb").unlink()
    write_ensemble(tmp_path / "good" / "c.dcd", Ensemble(heavy(alanine), positions_nm[1:2]))
    table = run(path, tmp_path / "bad.parquet", topology=tmp_path / "good" / "topology.pdb")
    assert table["status"].tolist() == ["nan_input", "ok", "clash", "broken_chirality", "ok"]
    assert np.isfinite(table["energy_kj_mol"]).tolist() == [False, True, False, False, True]
    assert read_json(tmp_path / "bad.json")["scored"]["failures"] == {
        "nan_input": 1,
        "clash": 1,
        "broken_chirality": 1,
    }
    text = score.summary(table, read_json(tmp_path / "bad.json")["scored"])
    assert "2 of 5 conformers scored" in text
    assert "1 failed: clash (two atoms of the input lie within 0.05 nm" in text


def test_a_trajectory_that_is_cut_or_empty_stops_with_a_reason(
    alanine: Peptide, trajectory: Path, tmp_path: Path
) -> None:
    import mdtraj

    topology = trajectory.parent / "topology.pdb"
    whole = tmp_path / "whole.xtc"
    mdtraj.Trajectory(conformers_of(alanine, 12), mdtraj.load_topology(str(topology))).save_xtc(str(whole))
    assert (run(whole, tmp_path / "xtc.parquet", topology=topology, relax="none")["status"] == "ok").all()
    for name, length in (("cut", 200), ("empty", 0)):
        damaged = tmp_path / f"{name}.xtc"
        damaged.write_bytes(whole.read_bytes()[:length])
        with pytest.raises(InputError, match="cannot be read") as caught:
            run(damaged, tmp_path / "x.parquet", topology=topology)
        assert caught.value.exit_code == 3
        assert f"{name}.xtc" in str(caught.value)
    assert not (tmp_path / "x.parquet").exists()


def test_what_was_decided_about_the_molecule_stands_in_the_record(trajectory: Path, tmp_path: Path) -> None:
    run(trajectory, tmp_path / "ala.parquet", relax="none")
    scored = read_json(tmp_path / "ala.json")["scored"]
    assert scored["hydrogens"] == "added at pH 7: the input has none"
    assert scored["termini"] == {"charged_amino": [], "charged_carboxyl": [], "caps": ["ACE 1", "NME 3"]}
    assert (scored["left_out"], scored["added_atoms"], scored["disulfides"]) == ({}, {}, [])
    assert "cutoff_error" not in scored


def test_a_cutoffs_error_is_measured_and_recorded(trajectory: Path, tmp_path: Path) -> None:
    def scored(cutoff_nm: float) -> dict[str, Any]:
        score.run(
            StageConfig(
                {
                    "systems": {},
                    "forcefield": {"platform": "Reference", "cutoff_nm": cutoff_nm},
                    "score": {"relax": "none"},
                }
            ),
            topology=trajectory.parent / "topology.pdb",
            conformers=trajectory,
            output=tmp_path / f"{cutoff_nm}.parquet",
            max_conformers=None,
            threads=1,
        )
        return read_json(tmp_path / f"{cutoff_nm}.json")["scored"]["cutoff_error"]

    exact = run(trajectory, tmp_path / "exact.parquet", relax="none")["energy_kj_mol"].to_numpy()
    error = scored(0.5)
    found = read_table(tmp_path / "0.5.parquet")["energy_kj_mol"].to_numpy() - exact
    some = score.evenly_spaced(12, 8)
    assert error["conformers"] == 8
    # The two tables have hydrogens placed by templates that were relaxed with and without the cutoff.
    assert error["first_kj_mol"] == pytest.approx(found[0], abs=0.2)
    assert error["mean_kj_mol"] == pytest.approx(found[some].mean(), abs=0.2)
    assert error["spread_kj_mol"] == pytest.approx(found[some].std(), abs=0.1)
    assert abs(error["first_kj_mol"]) > 0.1
    # Beyond the molecule only the shift of Coulomb's energy is left, which is the same for all conformers.
    assert scored(3.0)["spread_kj_mol"] < 1e-3


def test_settings_and_inputs_stand_in_the_record(trajectory: Path, tmp_path: Path) -> None:
    run(trajectory, tmp_path / "ala.parquet", relax="none")
    record = json.loads((tmp_path / "ala.json").read_text())
    assert record["settings"]["score"]["relax"] == "none"
    assert record["stage"] == "score"
    assert len(record["parents"]) == 2


@real_data
@pytest.mark.parametrize("name", ["chig", "deca-ala", "alanine-dipeptide"])
def test_a_real_structure_has_the_energy_of_a_plain_script(name: str, tmp_path: Path) -> None:
    """PDB file in, table out, against nothing but OpenMM's application layer on the same atoms."""
    import openmm
    from openmm import app

    path = REAL / "pdb_for_energy" / f"{name}.pdb"
    row = run(path, tmp_path / "real.parquet", topology=path, relax="none").iloc[0]
    pdb = app.PDBFile(str(path))
    system = app.ForceField("amber14/protein.ff14SB.xml", "implicit/obc2.xml").createSystem(pdb.topology)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(pdb.positions)
    plain = context.getState(energy=True).getPotentialEnergy()._value
    assert row["energy_kj_mol"] == pytest.approx(plain, rel=1e-5)


@real_data
def test_a_real_protein_has_its_disulfides_and_none_of_its_water(tmp_path: Path) -> None:
    folder = REAL / "atlas_3tvj_I"
    table = run(
        folder / "3tvj_I_R1.xtc", tmp_path / "3tvj.parquet", topology=folder / "3tvj_I.pdb", relax="none", maximum=2
    )
    scored = read_json(tmp_path / "3tvj.json")["scored"]
    assert scored["disulfides"] == ["CYS 7 and CYS 22", "CYS 17 and CYS 36", "CYS 20 and CYS 31"]
    assert (table["status"] == "ok").all()
    assert (table["nonbonded_kj_mol"] < 2000).all()  # without the bridges' bonds: 10,000
    villin = REAL / "pdb_for_energy" / "villin_solvated.pdb"
    run(villin, tmp_path / "villin.parquet", topology=villin, relax="none")
    assert read_json(tmp_path / "villin.json")["scored"]["left_out"] == {"Cl": 2, "HOH": 2761}
