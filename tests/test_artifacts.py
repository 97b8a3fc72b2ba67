"""What is written is read back; a file is whole or it is not there."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_molecules import peptide_topology

from ancdiff.artifacts import (
    molecule_of,
    read_ensemble,
    read_json,
    read_molecule,
    read_table,
    write_atomically,
    write_ensemble,
    write_json,
    write_table,
    write_text,
    write_topology,
)
from ancdiff.errors import InputError
from ancdiff.molecules import Ensemble, Molecule
from ancdiff.sequences import AMINO_ACIDS
from ancdiff.testing import alanine_dipeptide


def ensemble_of(*residues: str, frames: int = 4, seed: int = 0, spread_nm: float = 1.0) -> Ensemble:
    molecule = molecule_of(peptide_topology(*residues), "system")
    positions = np.random.default_rng(seed).normal(size=(frames, molecule.n_atoms, 3), scale=spread_nm)
    return Ensemble(molecule, positions.astype(np.float32))


def assert_same_molecule(one: Molecule, other: Molecule) -> None:
    for name in ("name", "atom_names", "elements", "residue_names"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("residue_of_atom", "bonds", "stereocentres"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([1e-3, 0.1, 3.0]))
def test_an_ensemble_comes_back(
    tmp_path_factory: pytest.TempPathFactory, frames: int, seed: int, spread: float
) -> None:
    ensemble = ensemble_of("ACE", *AMINO_ACIDS, "NME", frames=frames, seed=seed, spread_nm=spread)
    path = tmp_path_factory.mktemp("run") / "system" / "training.dcd"
    write_ensemble(path, ensemble, {"stage": "dataset"})
    back = read_ensemble(path)
    np.testing.assert_allclose(back.positions_nm, ensemble.positions_nm, rtol=2.5e-7, atol=0)
    assert np.abs(back.positions_nm - ensemble.positions_nm).max() <= 1e-6 * max(1.0, spread)
    assert_same_molecule(back.molecule, ensemble.molecule)
    assert read_json(path.with_suffix(".json")) == {"stage": "dataset"}
    assert sorted(p.name for p in path.parent.iterdir()) == ["topology.pdb", "training.dcd", "training.json"]


def test_standard_tools_read_it_in_their_units(tmp_path: Path) -> None:
    ensemble = ensemble_of("ACE", "ALA", "NME")
    write_ensemble(tmp_path / "x.dcd", ensemble)
    trajectory = mdtraj.load(str(tmp_path / "x.dcd"), top=str(tmp_path / "topology.pdb"))
    np.testing.assert_allclose(trajectory.xyz, ensemble.positions_nm, rtol=2.5e-7)
    # PDB keeps 0.001 Å
    np.testing.assert_allclose(
        mdtraj.load(str(tmp_path / "topology.pdb")).xyz[0], ensemble.positions_nm[0], atol=5.1e-5
    )


def test_bonds_come_back_across_a_chain_break_and_a_disulfide(tmp_path: Path) -> None:
    molecule = molecule_of(peptide_topology("ACE", "CYS", "ALA", "GLY", "CYS", "NME"), "broken")
    gap = {molecule.atom_index(2, "C"), molecule.atom_index(3, "N")}
    bridge = [molecule.atom_index(1, "SG"), molecule.atom_index(4, "SG")]
    bonds = sorted([*(b for b in molecule.bonds.tolist() if set(b) != gap), bridge])
    molecule = replace(molecule, bonds=np.array(bonds))
    positions = np.random.default_rng(0).normal(size=(molecule.n_atoms, 3))
    write_topology(tmp_path / "topology.pdb", molecule, positions)
    assert_same_molecule(read_molecule(tmp_path / "topology.pdb", name="broken"), molecule)
    # two sulfurs that touch are no bond where the molecule has none
    molecule = replace(molecule, bonds=np.array([b for b in bonds if b != bridge]))
    positions[bridge] = positions[bridge[0]] + [[0, 0, 0], [0.2, 0, 0]]
    write_topology(tmp_path / "topology.pdb", molecule, positions)
    assert_same_molecule(read_molecule(tmp_path / "topology.pdb", name="broken"), molecule)


def test_a_writer_that_fails_leaves_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.parquet"

    def fail(temporary: Path) -> None:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".parquet"
        temporary.write_text("half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        write_atomically(path, fail)
    assert list(path.parent.iterdir()) == []
    write_text(path, "whole")
    with pytest.raises(RuntimeError, match="disk is full"):
        write_atomically(path, fail)
    assert [p.name for p in path.parent.iterdir()] == ["table.parquet"]
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o644


def test_json_is_sorted_and_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": [2.5, None]})
    assert (tmp_path / "x.json").read_text().index('"a"') < (tmp_path / "x.json").read_text().index('"b"')
    assert read_json(tmp_path / "x.json") == {"b": 1, "a": [2.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "y.json", {"a": float("nan")})
    assert not (tmp_path / "y.json").exists()
    (tmp_path / "z.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "z.json")


def test_a_table_comes_back_with_a_tsv_beside_it(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": ["a", "b"], "value": [0.1, -np.inf], "n": [1, 2]})
    write_table(tmp_path / "t.parquet", table, tsv=True)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), table)
    assert (tmp_path / "t.tsv").read_text().splitlines() == ["name\tvalue\tn", "a\t0.1\t1", "b\t-inf\t2"]
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(InputError, match="not a Parquet table"):
        read_table(tmp_path / "bad.parquet")


@pytest.mark.parametrize("read", [read_json, read_table, read_molecule, read_ensemble])
def test_a_missing_file_is_named(tmp_path: Path, read) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        read(tmp_path / "missing.x")
    assert str(tmp_path) in str(caught.value)


def test_trajectories_that_cannot_be_read(tmp_path: Path) -> None:
    write_ensemble(tmp_path / "x.dcd", ensemble_of("ACE", "ALA", "NME", frames=9))
    whole = (tmp_path / "x.dcd").read_bytes()
    for kept in (0, 30, len(whole) // 2, len(whole) - 4):
        (tmp_path / "x.dcd").write_bytes(whole[:kept])
        with pytest.raises(InputError, match="trajectory"):
            read_ensemble(tmp_path / "x.dcd")
    write_ensemble(tmp_path / "other" / "y.dcd", ensemble_of("ACE", "SER", "NME"))
    with pytest.raises(InputError, match="cannot be read with its topology"):
        read_ensemble(tmp_path / "other" / "y.dcd", topology=tmp_path / "topology.pdb")
    with pytest.raises(InputError, match="no conformers"):
        write_ensemble(tmp_path / "e.dcd", ensemble_of("ACE", "ALA", "NME", frames=0))
    assert not (tmp_path / "e.dcd").exists()


# mdtraj leaves the file of a PDB that it cannot parse to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("text", ["", "this is no structure\n", "ATOM      1  CA  ALA A   1      x.xxx\n"])
def test_a_structure_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.pdb").write_text(text)
    with pytest.raises(InputError, match=r"no atoms|cannot be read"):
        read_molecule(tmp_path / "bad.pdb")
    gc.collect()  # here, not in a later test


def test_a_record_is_json(tmp_path: Path) -> None:
    write_ensemble(tmp_path / "x.dcd", ensemble_of("ACE", "ALA", "NME"), {"seed": 3, "parents": {}})
    assert json.loads((tmp_path / "x.json").read_text())["seed"] == 3


def test_equal_ensembles_are_equal_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ensemble = alanine_dipeptide()
    for name in ("a", "b"):
        write_ensemble(tmp_path / name / "x.dcd", ensemble)
    assert (tmp_path / "a" / "x.dcd").read_bytes() == (tmp_path / "b" / "x.dcd").read_bytes()
    assert b"Created" not in (tmp_path / "a" / "x.dcd").read_bytes()
    read_ensemble(tmp_path / "a" / "x.dcd")
    assert capfd.readouterr().out == ""
