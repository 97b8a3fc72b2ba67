"""Molecules from SDF files and their conformers, record by record, and the stage `score` on them."""

from pathlib import Path

import mdtraj
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from ancdiff.artifacts import read_ensemble, read_json, read_molecule, read_table
from ancdiff.chemistry import graph_of_molecule, molecule_of_graph
from ancdiff.cli import commands
from ancdiff.errors import ConfigError, InputError
from ancdiff.molecules import signed_volumes

ALANINE = "C[C@H](N)C(=O)O"


def embedded(smiles: str, conformers: int = 1) -> Chem.Mol:
    graph = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert len(rdDistGeom.EmbedMultipleConfs(graph, conformers, randomSeed=7)) == conformers
    return graph


def write_sdf(path: Path, graph: Chem.Mol, *, only: int | None = None) -> Path:
    with Chem.SDWriter(str(path)) as writer:
        for conformer in graph.GetConformers():
            if only in (None, conformer.GetId()):
                writer.write(graph, confId=conformer.GetId())
    return path


def write_xyz(path: Path, graph: Chem.Mol) -> Path:
    path.write_text("".join(Chem.MolToXYZBlock(graph, confId=c.GetId(), precision=8) for c in graph.GetConformers()))
    return path


def angstrom(graph: Chem.Mol) -> np.ndarray:
    return np.array([c.GetPositions() for c in graph.GetConformers()])


@pytest.mark.parametrize("smiles", [ALANINE, "c1ccncc1C#N", "C[N+](=O)[O-]", "[NH4+]", "O=S(=O)(C)Cl", "C/C=C\\C"])
def test_a_molecule_keeps_its_chemistry_there_and_back(smiles: str, tmp_path: Path) -> None:
    graph = embedded(smiles)
    molecule = read_molecule(write_sdf(tmp_path / "m.sdf", graph))
    assert molecule.name == "m"
    assert molecule.elements == tuple(atom.GetSymbol() for atom in graph.GetAtoms())
    back = graph_of_molecule(molecule, angstrom(graph)[0] / 10)
    Chem.AssignStereochemistryFrom3D(back)
    assert Chem.MolToSmiles(Chem.RemoveHs(back)) == Chem.MolToSmiles(Chem.MolFromSmiles(smiles))
    assert sum(molecule.formal_charges or ()) == Chem.GetFormalCharge(graph)


def test_stereocentres_are_positive_in_the_file_and_negative_in_its_mirror(tmp_path: Path) -> None:
    for smiles, centres in ((ALANINE, 1), ("CC(C)O", 0), ("C[C@H](O)[C@@H](F)Cl", 2), ("C[C@H]1C[C@@H]1F", 2)):
        graph = embedded(smiles)
        molecule = molecule_of_graph(graph, "x")
        positions_nm = angstrom(graph) / 10
        assert len(molecule.stereocentres) == centres
        assert (signed_volumes(positions_nm, molecule.stereocentres) > 0).all()
        assert (signed_volumes(-positions_nm, molecule.stereocentres) < 0).all()


def test_conformers_are_the_same_from_every_format(tmp_path: Path) -> None:
    graph = embedded(ALANINE, 3)
    topology = write_sdf(tmp_path / "m.mol", graph, only=0)
    sdf = read_ensemble(write_sdf(tmp_path / "c.sdf", graph), topology=topology)
    xyz = read_ensemble(write_xyz(tmp_path / "c.xyz", graph), topology=topology)
    assert np.abs(sdf.positions_nm * 10 - angstrom(graph)).max() < 1e-4  # four decimals
    assert np.abs(xyz.positions_nm * 10 - angstrom(graph)).max() < 1e-7
    assert sdf.refused == xyz.refused == {}
    top = mdtraj.Topology()
    residue = top.add_residue("UNL", top.add_chain())
    for atom in graph.GetAtoms():
        top.add_atom(f"{atom.GetSymbol()}{atom.GetIdx()}", mdtraj.element.get_by_symbol(atom.GetSymbol()), residue)
    for name in ("c.dcd", "c.xtc"):
        mdtraj.Trajectory(angstrom(graph) / 10, top).save(str(tmp_path / name))
        read = read_ensemble(tmp_path / name, topology=topology)
        assert np.abs(read.positions_nm * 10 - angstrom(graph)).max() < (1e-5 if name == "c.dcd" else 6e-3)
        assert read.molecule.bond_orders is not None


def test_qm9s_own_xyz_files_are_read(tmp_path: Path) -> None:
    graph = embedded("C")
    topology = write_sdf(tmp_path / "m.sdf", graph)
    rows = [
        "C 0 0 0 -0.5",
        "H 1.09 0 0 0.1",
        "H -0.36 1.03 1.5*^-6 0.1",
        "H -0.36 -0.51 0.89 0.1",
        "H -.36 -.51 -.89 0",
    ]
    (tmp_path / "c.xyz").write_text("5\ngdb 1\t157.7\n" + "\n".join(rows) + "\n1341.3\t1341.3\nC\tC\n")
    ensemble = read_ensemble(tmp_path / "c.xyz", topology=topology)
    assert ensemble.positions_nm[0, 2] == pytest.approx([-0.036, 0.103, 1.5e-7])
    assert ensemble.refused == {1: "unreadable"}  # the frequencies after the atoms are no record


def test_each_bad_record_is_refused_with_its_reason(tmp_path: Path) -> None:
    graph = embedded(ALANINE, 2)
    topology = write_sdf(tmp_path / "m.sdf", graph, only=0)
    good = Chem.MolToMolBlock(graph, confId=1) + "$$$$\n"
    other = Chem.MolToMolBlock(embedded("CCC")) + "$$$$\n"
    order = [1, 0, *range(2, graph.GetNumAtoms())]  # two carbons change places: the same elements, other bonds
    swapped = Chem.MolToMolBlock(Chem.RenumberAtoms(graph, order)) + "$$$$\n"
    damaged = good.replace("C   0", "C   x", 1).replace(" 13 12", " 13 99", 1)
    (tmp_path / "c.sdf").write_text(good + other + swapped + damaged + good + good[: len(good) // 3])
    ensemble = read_ensemble(tmp_path / "c.sdf", topology=topology)
    assert ensemble.refused == {1: "other_molecule", 2: "other_molecule", 3: "unreadable", 5: "unreadable"}
    assert np.isfinite(ensemble.positions_nm).all(axis=(1, 2)).tolist() == [True, False, False, False, True, False]

    xyz = write_xyz(tmp_path / "c.xyz", graph).read_text()
    frames = [xyz[: len(xyz) // 2], xyz[len(xyz) // 2 :]]
    lines = frames[0].splitlines(keepends=True)
    lines[2], lines[-1] = lines[-1], lines[2]
    cut = "".join(frames[1].splitlines(keepends=True)[:-2])
    (tmp_path / "bad.xyz").write_text(frames[0] + "".join(lines) + "2\n\nH 0 0 0\nH 0 0 1\n" + frames[1] + "\n" + cut)
    ensemble = read_ensemble(tmp_path / "bad.xyz", topology=topology)
    assert ensemble.refused == {1: "other_molecule", 2: "other_molecule", 4: "unreadable"}


def test_files_that_do_not_do_stop_with_a_reason(tmp_path: Path) -> None:
    graph = embedded(ALANINE, 2)
    topology = write_sdf(tmp_path / "m.sdf", graph, only=0)
    bare = write_sdf(tmp_path / "bare.sdf", Chem.RemoveHs(graph), only=0)
    with pytest.raises(InputError, match="7 hydrogens are missing"):
        read_molecule(bare)
    with pytest.raises(InputError, match="no conformer of the molecule: this record has other atoms"):
        read_ensemble(bare, topology=topology)
    (tmp_path / "empty.sdf").write_text("")
    with pytest.raises(InputError, match="this file has no molecule"):
        read_molecule(tmp_path / "empty.sdf")
    (tmp_path / "empty.xyz").write_text("\n")
    with pytest.raises(InputError, match="the file is empty"):
        read_ensemble(tmp_path / "empty.xyz", topology=topology)
    with pytest.raises(InputError, match="there is no such file"):
        read_ensemble(tmp_path / "none.sdf", topology=topology)
    (tmp_path / "topology.pdb").write_text(
        "ATOM      1  C   UNL A   1       0.000   0.000   0.000  1.00  0.00           C\n"
    )
    with pytest.raises(InputError, match="need an SDF file as topology"):
        read_ensemble(write_sdf(tmp_path / "c.sdf", graph), topology=tmp_path / "topology.pdb")
    five = Chem.MolToMolBlock(embedded("C")).replace("  5  4", "  6  5", 1).splitlines()
    five.insert(9, "    0.0000    0.0000    1.5000 H   0  0  0  0  0  0  0  0  0  0  0  0")
    five.insert(-1, "  1  6  1  0")
    (tmp_path / "five.mol").write_text("\n".join(five) + "\n")
    with pytest.raises(InputError, match="chemically impossible"):
        read_molecule(tmp_path / "five.mol")


def score(*arguments: str | Path) -> str:
    result = CliRunner().invoke(commands, ["score", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_score_by_hand_has_a_row_for_each_record(tmp_path: Path) -> None:
    graph = embedded(ALANINE, 4)
    topology = write_sdf(tmp_path / "m.sdf", graph, only=0)
    records = write_sdf(tmp_path / "c.sdf", graph).read_text().split("$$$$\n")[:4]
    records.insert(1, Chem.MolToMolBlock(embedded("CCC")))
    (tmp_path / "c.sdf").write_text("$$$$\n".join(records) + "$$$$\n")
    output = tmp_path / "e.parquet"
    options = ("--topology", topology, "--conformers", tmp_path / "c.sdf", "--output", output, "--threads", "1")
    text = score(*options, "--small-molecule", "mmff94", "--relax", "full")
    assert "4 of 5 conformers scored" in text
    assert "1 failed: other_molecule (this record has other atoms" in text
    table = read_table(output)
    assert table["status"].tolist() == ["ok", "other_molecule", "ok", "ok", "ok"]
    good = table[table["status"] == "ok"]
    assert (good["strain_kj_mol"] > 0).all()
    assert (good["displacement_nm"] > 0).all()
    assert np.isnan(table["energy_kj_mol"][1])
    record = read_json(tmp_path / "e.json")
    assert record["settings"]["forcefield"]["small_molecule"] == "mmff94"
    assert record["scored"] == {
        "platform": "Reference",
        "conformers": 5,
        "failures": {"other_molecule": 1},
    }
    # The same conformers, thinned, and from another format: the same energies up to its decimals.
    write_xyz(tmp_path / "c.xyz", graph)
    score(
        *options[:2], "--conformers", tmp_path / "c.xyz", *options[4:], "--small-molecule", "mmff94", "--relax", "full"
    )
    pd.testing.assert_series_equal(
        read_table(output)["energy_kj_mol"], good["energy_kj_mol"].reset_index(drop=True), atol=0.05, rtol=0
    )


def test_score_by_hand_says_which_force_field_to_take(tmp_path: Path) -> None:
    graph = embedded("CO")
    topology = write_sdf(tmp_path / "m.sdf", graph)
    options = ("--topology", topology, "--conformers", topology, "--output", tmp_path / "e.parquet")
    with pytest.raises(ConfigError, match=r"(?s)no force field for such molecules.*--small-molecule mmff94"):
        score(*options)
    with pytest.raises(ConfigError, match="small_molecule"):
        score(*options, "--small-molecule", "uff")
    assert not (tmp_path / "e.parquet").exists()


def test_conformers_in_the_wrong_unit_are_told(tmp_path: Path) -> None:
    graph = embedded("CO")
    topology = write_sdf(tmp_path / "m.sdf", graph)
    nanometers = Chem.Mol(graph)
    for i, xyz in enumerate(angstrom(graph)[0] / 10):
        nanometers.GetConformer().SetAtomPosition(i, xyz.tolist())
    options = ("--topology", topology, "--output", tmp_path / "e.parquet", "--small-molecule", "mmff94")
    with pytest.raises(InputError, match="ten times too small"):
        score(*options, "--conformers", write_xyz(tmp_path / "c.xyz", nanometers))
