"""The user's own MD: what is kept of a topology, which bonds there are, and real data of several programs."""

import os
import tarfile
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from rdkit import Chem

from ancdiff.artifacts import read_ensemble, read_json
from ancdiff.basins import assign_basins, ramachandran
from ancdiff.config import StageConfig, SystemSettings
from ancdiff.corridor import Layout
from ancdiff.dataset import run
from ancdiff.dataset.residues import HEAVY_ATOMS, STANDARD_BONDS
from ancdiff.dataset.trajectories import make_whole, read_trajectories, select_solute
from ancdiff.errors import InputError, StageError
from ancdiff.forcefield.residues import RESIDUES
from ancdiff.sequences import AMINO_ACIDS
from ancdiff.testing import alanine_dipeptide

DATA = Path(os.environ.get("ANCDIFF_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def topology_of(residues: list[tuple[str, str]]) -> mdtraj.Topology:
    """A topology without bonds: (residue name, atom names), elements by the first letter."""
    top = mdtraj.Topology()
    chain = top.add_chain()
    for name, atoms in residues:
        residue = top.add_residue(name, chain)
        for atom in atoms.split():
            element = atom if atom in ("Na", "Cl") else atom.lstrip("0123456789")[0]
            top.add_atom(atom.upper(), mdtraj.element.get_by_symbol(element), residue)
    return top


ACE, ALANINE, NME = "CH3 C O", "N CA CB C O", "N C"


def alanine_files(folder: Path, positions: np.ndarray | None = None, ending: str = "xtc") -> SystemSettings:
    """The test dipeptide, 3 shaken frames, as a structure and a trajectory."""
    ensemble = alanine_dipeptide()
    top = topology_of([("ACE", ACE), ("ALA", ALANINE), ("NME", NME)])
    if positions is None:
        shake = np.random.default_rng(0).normal(scale=0.002, size=(3, 10, 3))
        positions = ensemble.positions_nm + shake.astype(np.float32)
    mdtraj.Trajectory(positions[:1], top).save_pdb(str(folder / "top.pdb"))
    mdtraj.Trajectory(positions, top).save(str(folder / f"md.{ending}"))
    return SystemSettings(topology=str(folder / "top.pdb"), training=(str(folder / f"md.{ending}"),))


def test_water_ions_ligands_and_hydrogens_go() -> None:
    residues = [
        ("ACE", "H1 CH3 C O"), ("ALA", "N H CA HA CB C O"), ("NME", "N H C"),
        ("SOL", "O H1 H2"), ("NA", "Na"), ("LIG", "C1 C2 O3"), ("SOL", "O H1 H2"),
    ]  # fmt: skip
    solute = select_solute(topology_of(residues), "x")
    assert solute.atoms.tolist() == [1, 2, 3, 4, 6, 8, 9, 10, 11, 13]
    assert solute.molecule.atom_names == ("CH3", "C", "O", "N", "CA", "CB", "C", "O", "N", "C")
    assert set(solute.notes) == {"left out 1 of residue LIG", "left out 1 of residue NA", "left out 2 of residue SOL"}
    assert len(solute.molecule.bonds) == 9


def test_a_small_molecule_is_kept_where_there_is_no_protein() -> None:
    solute = select_solute(topology_of([("LIG", "C1 C2 O3 H1"), ("HOH", "O H1 H2"), ("CL", "Cl")]), "x")
    assert solute.molecule.atom_names == ("C1", "C2", "O3")
    with pytest.raises(InputError, match="no solute"):
        select_solute(topology_of([("HOH", "O H1 H2"), ("CL", "Cl")]), "x")


def test_names_of_other_programs_become_standard_ones() -> None:
    # Amber, GROMACS and CHARMM spellings of the same chain
    amber = [("NALA", ALANINE), ("HIE", "N CA CB CG ND1 CE1 NE2 CD2 C O"), ("CILE", "N CA CB CG2 CG1 CD1 C O OXT")]
    gromacs = [("ALA", ALANINE), ("HISB", "N CA CB CG ND1 CE1 NE2 CD2 C O"), ("ILE", "N CA CB CG2 CG1 CD C O1 O2")]
    charmm = [("ALA", ALANINE), ("HSD", "N CA CB CG ND1 CE1 NE2 CD2 C O"), ("ILE", "N CA CB CG2 CG1 CD C OT1 OT2")]
    molecules = [select_solute(topology_of(chain), "x").molecule for chain in (amber, gromacs, charmm)]
    for molecule in molecules:
        assert molecule.residue_names == ("ALA", "HIS", "ILE")
        assert molecule.atom_names == molecules[0].atom_names
        np.testing.assert_array_equal(molecule.bonds, molecules[0].bonds)


def test_caps_that_charmm_patches_into_the_end_residues() -> None:
    molecule = select_solute(topology_of([("ALA", f"CAY CY OY {ALANINE} NT CAT")]), "x").molecule
    plain = select_solute(topology_of([("ACE", ACE), ("ALA", ALANINE), ("NME", NME)]), "x").molecule
    assert molecule.residue_names == plain.residue_names == ("ACE", "ALA", "NME")
    assert molecule.atom_names == plain.atom_names
    np.testing.assert_array_equal(molecule.bonds, plain.bonds)
    amide = select_solute(topology_of([("ALA", f"{ALANINE} NT")]), "x").molecule
    assert amide.residue_names == ("ALA", "NH2")
    with pytest.raises(InputError, match="do not stand together"):
        select_solute(topology_of([("ALA", f"{ALANINE} CAY CY OY")]), "x")


def test_missing_heavy_atoms_are_named() -> None:
    chain = [("ALA", ALANINE), ("LYS", "N CA CB CG CD C O"), ("VAL", "N CA CB C O")]
    with pytest.raises(InputError, match=r"LYS2 lacks CE, NZ; VAL3 lacks CG1, CG2\n") as caught:
        select_solute(topology_of(chain), "x", where="x.pdb")
    assert caught.value.where == "x.pdb"
    with pytest.raises(InputError, match="and 3 more residues"):
        select_solute(topology_of([("ALA", "CA")] * 8), "x")


@pytest.mark.parametrize("residue", STANDARD_BONDS)
def test_bonds_of_a_residue_are_those_of_its_chemical_formula(residue: str) -> None:
    if residue == "NH2":
        assert HEAVY_ATOMS[residue] == {"N"}
        return
    known = RESIDUES[residue]
    formula = Chem.MolFromSmiles(known.smiles)
    bonds = {frozenset(known.names[a.GetIdx()] for a in (b.GetBeginAtom(), b.GetEndAtom())) for b in formula.GetBonds()}
    assert {frozenset(bond) for bond in STANDARD_BONDS[residue]} == bonds
    assert HEAVY_ATOMS[residue] == set(known.names)


def test_make_whole_undoes_a_periodic_box() -> None:
    ensemble = alanine_dipeptide()
    positions = np.repeat(ensemble.positions_nm, 4, axis=0) + np.array([[[0.1 * k, 0.3 * k, 0]] for k in range(4)])
    box = np.repeat([[[2.0, 0, 0], [0.7, 1.8, 0], [-0.6, 0.5, 1.7]]], 4, axis=0)  # triclinic
    cells = np.floor(positions @ np.linalg.inv(box))
    wrapped = (positions - np.einsum("fai,fij->faj", cells, box)).astype(np.float32)
    assert np.ptp(wrapped, axis=1).max() > 1  # it is cut indeed
    whole = make_whole(wrapped, ensemble.molecule.bonds, box)
    np.testing.assert_allclose(whole - whole[:, :1], positions - positions[:, :1], atol=1e-6)
    assert make_whole(wrapped, ensemble.molecule.bonds, None) is wrapped
    assert make_whole(wrapped, ensemble.molecule.bonds, np.zeros((4, 3, 3))) is wrapped


@pytest.mark.parametrize("ending", ["xtc", "dcd", "nc", "trr", "pdb"])
def test_formats_of_trajectories(tmp_path: Path, ending: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # mdtraj's own advice while it writes NetCDF
        settings = alanine_files(tmp_path, ending=ending)
    frames = read_trajectories("ala", settings)["training"]
    shake = np.random.default_rng(0).normal(scale=0.002, size=(3, 10, 3))
    # XTC keeps 0.001 nm, PDB 0.0001 nm
    tolerance = {"xtc": 5.1e-4, "pdb": 5.1e-5}.get(ending, 1e-6)
    np.testing.assert_allclose(frames.positions_nm, alanine_dipeptide().positions_nm + shake, atol=tolerance)
    assert len(frames.molecule.bonds) == 9


def test_links_are_those_that_the_frames_show(tmp_path: Path) -> None:
    torn = np.repeat(alanine_dipeptide().positions_nm, 3, axis=0)
    torn[:, 8:] += 0.5  # NME stands apart in every frame: a chain break, not a broken bond
    frames = read_trajectories("ala", alanine_files(tmp_path, torn))["training"]
    assert frames.notes == ("chain break between ALA2 and NME3",)
    assert [6, 8] not in frames.molecule.bonds.tolist()
    torn[1:, 8:] -= 0.5  # in one frame of three: that frame is bad
    frames = read_trajectories("ala", alanine_files(tmp_path, torn))["training"]
    assert [6, 8] in frames.molecule.bonds.tolist()
    # a slip of units is not taken for a broken chain
    slipped = read_trajectories("ala", alanine_files(tmp_path, 10 * torn))["training"]
    assert [6, 8] in slipped.molecule.bonds.tolist()


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    good = alanine_files(tmp_path)

    def refusal(**changed) -> str:
        with pytest.raises(InputError) as caught:
            read_trajectories("ala", good.model_copy(update=changed))
        assert caught.value.where
        assert caught.value.fix
        return caught.value.what

    assert "no such file" in refusal(topology=str(tmp_path / "no.pdb"))
    assert "no such file" in refusal(reference=(str(tmp_path / "no.xtc"),))
    (tmp_path / "bonds.psf").write_text("no structure\n")
    assert "this topology cannot be read" in refusal(topology=str(tmp_path / "bonds.psf"))
    whole = (tmp_path / "md.xtc").read_bytes()
    (tmp_path / "cut.xtc").write_bytes(whole[: len(whole) - 20])
    assert "cannot be read with its topology" in refusal(training=(str(tmp_path / "cut.xtc"),))
    (tmp_path / "x.unknown").write_bytes(whole)
    assert "cannot be read" in refusal(training=(str(tmp_path / "x.unknown"),))
    # more atoms than the topology: reading the solute's indices alone would have worked
    top = topology_of([("ACE", ACE), ("ALA", ALANINE), ("NME", NME), ("HOH", "O")])
    mdtraj.Trajectory(np.zeros((2, 11, 3), dtype=np.float32), top).save(str(tmp_path / "more.xtc"))
    assert "cannot be read with its topology" in refusal(training=(str(tmp_path / "more.xtc"),))


def test_a_dcd_that_was_cut_is_read_as_far_as_it_goes_and_noted(tmp_path: Path) -> None:
    settings = alanine_files(tmp_path, ending="dcd")
    whole = (tmp_path / "md.dcd").read_bytes()
    (tmp_path / "md.dcd").write_bytes(whole[:-100])
    frames = read_trajectories("ala", settings)["training"]
    assert len(frames) == 2
    assert frames.notes == ("md.dcd promises 3 frames and holds 2",)


def real(*names: str) -> list[str]:
    """Paths of real data, or skip."""
    paths = [DATA / name for name in names]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        pytest.skip(f"real data is not here ({missing[0]}); set ANCDIFF_TEST_DATA to its folder")
    return [str(path) for path in paths]


def prepared(tmp_path: Path, topology: str, *training: str, reference: tuple[str, ...] = ()) -> dict:
    system = {"topology": topology, "training": list(training), "reference": list(reference)}
    run(StageConfig({"run": {}, "systems": {"own": system}, "dataset": {}}), results=tmp_path)
    return read_json(tmp_path / "dataset" / "checks.json")["systems"]["own"]


def test_real_gromacs_replicas_with_old_names(tmp_path: Path) -> None:
    folder = "md_psi_domain/psi_md_traj_"
    gro, one, two = real(f"{folder}1.gro", f"{folder}1.xtc", f"{folder}2.xtc")
    checks = prepared(tmp_path, gro, one, reference=(two,))
    assert checks["atoms"] == 412
    assert checks["training"]["kept"] == checks["reference"]["kept"] == 225
    bridges = [note for note in checks["notes"] if note.startswith("disulfide")]
    assert [note.split("between ")[1] for note in bridges] == ["CYS5 and CYS23", "CYS16 and CYS38", "CYS26 and CYS49"]
    written = read_ensemble(Layout(tmp_path).ensemble("training", "own"))
    assert set(written.molecule.residue_names) <= set(AMINO_ACIDS)
    # 56 residues in one chain: both torsions everywhere but at the ends
    assert written.molecule.ramachandran_residues() == list(range(1, 55))


def test_real_atlas_protein(tmp_path: Path) -> None:
    pdb, xtc = real("atlas_3tvj_I/3tvj_I.pdb", "atlas_3tvj_I/3tvj_I_R1.xtc")
    checks = prepared(tmp_path, pdb, xtc)
    assert checks["training"] == {"frames": 1001, "kept": 1001, "left_out": {}, "replicas": 1}
    assert sum(note.startswith("disulfide") for note in checks["notes"]) == 3


@pytest.mark.parametrize(
    ("topology", "trajectory", "atoms", "frames"),
    [("tz2.parm7", "tz2.nc", 117, 101), ("adk.psf", "adk_dims.dcd", 1656, 98)],
)
def test_real_amber_and_charmm_files(tmp_path: Path, topology: str, trajectory: str, atoms: int, frames: int) -> None:
    files = real(f"md_formats_amber_charmm/{topology}", f"md_formats_amber_charmm/{trajectory}")
    checks = prepared(tmp_path, *files)
    assert checks["atoms"] == atoms
    assert checks["training"]["kept"] == checks["training"]["frames"] == frames


def test_a_real_peptide_with_d_proline_is_refused_by_name(tmp_path: Path) -> None:
    files = real("md_formats_amber_charmm/DPDP.parm7", "md_formats_amber_charmm/DPDP.nc")
    with pytest.raises(StageError, match=r"PRO7 CA is not of the natural \(L\) hand") as caught:
        prepared(tmp_path, *files)
    assert "D-amino acids are not supported" in caught.value.fix


def test_real_alanine_dipeptide_keeps_its_populations(tmp_path: Path) -> None:
    pdb, archive = real("ala2_msmbuilder/native.pdb", "ala2_msmbuilder/XTC.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, [f"XTC/RUN{run:02d}/frame0.xtc" for run in range(5)], filter="data")
    files = sorted(str(path) for path in tmp_path.glob("XTC/RUN*/frame0.xtc"))
    checks = prepared(tmp_path, pdb, *files)
    assert checks["training"] == {"frames": 5 * 501, "kept": 5 * 501, "left_out": {}, "replicas": 5}
    written = read_ensemble(Layout(tmp_path).ensemble("training", "own"))
    phi_psi = ramachandran(written)[1]
    trajectory = mdtraj.join([mdtraj.load(name, top=pdb) for name in files])
    (_, phi), (_, psi) = mdtraj.compute_phi(trajectory), mdtraj.compute_psi(trajectory)
    assert np.mean(assign_basins(phi_psi) == assign_basins(np.stack([phi, psi], axis=-1))) > 0.999
