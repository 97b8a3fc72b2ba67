"""The stage `score`: from files to a table, one row for each conformer, and on from where it was killed."""

import json
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


def settings(**changes: Any) -> StageConfig:
    return StageConfig({"forcefield": {"platform": "Reference"}, "score": changes})


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
    text = score.summary(table)
    assert "2 of 5 conformers scored" in text
    assert "1 failed: clash (two atoms of the input lie within 0.05 nm" in text


def test_files_that_do_not_do_stop_with_a_reason(alanine: Peptide, trajectory: Path, tmp_path: Path) -> None:
    valine = build_peptide("val", "ACE-VAL-NME", ForcefieldSettings())
    write_ensemble(tmp_path / "val" / "v.dcd", Ensemble(heavy(valine), valine.positions_nm[None, valine.heavy]))
    with pytest.raises(InputError, match="cannot be read with its topology"):  # wrong number of atoms
        run(trajectory, tmp_path / "x.parquet", topology=tmp_path / "val" / "topology.pdb")

    angstrom = tmp_path / "angstrom" / "a.dcd"
    write_ensemble(angstrom, Ensemble(heavy(alanine), conformers_of(alanine, 2) * 10))
    with pytest.raises(InputError, match="wrong units"):
        run(angstrom, tmp_path / "x.parquet", topology=trajectory.parent / "topology.pdb")

    cut = tmp_path / "cut.dcd"
    cut.write_bytes(trajectory.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cannot be read|no frames"):
        run(cut, tmp_path / "x.parquet", topology=trajectory.parent / "topology.pdb")

    everything = tmp_path / "nan" / "n.dcd"
    write_ensemble(everything, Ensemble(heavy(alanine), np.full((2, 10, 3), np.nan, dtype=np.float32)))
    with pytest.raises(InputError, match="no conformer has finite coordinates"):
        run(everything, tmp_path / "x.parquet", topology=trajectory.parent / "topology.pdb")

    strange = tmp_path / "strange.pdb"
    strange.write_text((trajectory.parent / "topology.pdb").read_text().replace("ALA", "QQQ"))
    with pytest.raises(InputError, match="'QQQ' is not a residue"):
        run(trajectory, tmp_path / "x.parquet", topology=strange)
    assert not (tmp_path / "x.parquet").exists()


def test_settings_and_inputs_stand_in_the_record(trajectory: Path, tmp_path: Path) -> None:
    run(trajectory, tmp_path / "ala.parquet", relax="none")
    record = json.loads((tmp_path / "ala.json").read_text())
    assert record["settings"]["score"]["relax"] == "none"
    assert record["stage"] == "score"
    assert len(record["parents"]) == 2
