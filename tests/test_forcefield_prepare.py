"""Structures as they come: solvent, disulfides, breaks, open ends, protonation, missing atoms, other names."""

from dataclasses import replace

import numpy as np
import openmm
import pytest

from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.errors import ConfigError, InputError
from ancdiff.forcefield.build import build_peptide, start_structure
from ancdiff.forcefield.checks import check_atoms
from ancdiff.forcefield.energies import Scorer, open_scorer
from ancdiff.forcefield.hydrogens import rotate
from ancdiff.forcefield.prepare import usable_structure
from ancdiff.forcefield.residues import standard_atom, standard_residue
from ancdiff.forcefield.template import Template, make_template, protonation
from ancdiff.forcefield.topology import select_atoms
from ancdiff.molecules import Ensemble, Molecule, signed_volumes

FF = ForcefieldSettings(platform="Reference")


def peptide(sequence: str) -> tuple[Molecule, np.ndarray]:
    """Heavy atoms of a capped peptide."""
    built = build_peptide("made", sequence, FF)
    return select_atoms(built.molecule, built.heavy), built.positions_nm[built.heavy]


def without(
    molecule: Molecule, positions_nm: np.ndarray, *names: str, residue: int | None = None
) -> tuple[Molecule, np.ndarray]:
    """The molecule less the atoms of these names, or, without names, less a whole residue (its number goes too)."""
    gone = np.array([residue in (None, r) and (not names or n in names) for n, r in zip(
        molecule.atom_names, molecule.residue_of_atom, strict=True)])  # fmt: skip
    kept = np.flatnonzero(~gone)
    part = select_atoms(molecule, kept)
    if not names and residue is not None:
        number = part.residue_of_atom - (part.residue_of_atom > residue)
        residues = tuple(n for r, n in enumerate(part.residue_names) if r != residue)
        part = replace(part, residue_names=residues, residue_of_atom=number)
        part = select_atoms(part, np.arange(part.n_atoms))  # stereocentres anew
    return part, positions_nm[kept]


def joined(parts: list[tuple[Molecule, np.ndarray]]) -> tuple[Molecule, np.ndarray]:
    """Several molecules in one, with no bonds between them."""
    atoms = np.cumsum([0, *(m.n_atoms for m, _ in parts)])
    residues = np.cumsum([0, *(len(m.residue_names) for m, _ in parts)])
    molecule = Molecule(
        name="joined",
        atom_names=sum((m.atom_names for m, _ in parts), ()),
        elements=sum((m.elements for m, _ in parts), ()),
        residue_names=sum((m.residue_names for m, _ in parts), ()),
        residue_of_atom=np.concatenate([m.residue_of_atom + r for (m, _), r in zip(parts, residues, strict=False)]),
        bonds=np.concatenate([m.bonds + a for (m, _), a in zip(parts, atoms, strict=False)]),
        stereocentres=np.concatenate([m.stereocentres + a for (m, _), a in zip(parts, atoms, strict=False)]),
    )
    return molecule, np.concatenate([x for _, x in parts])


def lone_atoms(residue: str, element: str, number: int) -> tuple[Molecule, np.ndarray]:
    molecule = Molecule(
        name="solvent",
        atom_names=(element,) * number,
        elements=(element,) * number,
        residue_names=(residue,) * number,
        residue_of_atom=np.arange(number),
        bonds=np.zeros((0, 2), dtype=np.int64),
    )
    return molecule, 3.0 + np.arange(3.0 * number).reshape(-1, 3)


def charge(template: Template) -> float:
    force = next(f for f in template.system.getForces() if isinstance(f, openmm.NonbondedForce))
    return sum(force.getParticleParameters(i)[0]._value for i in range(template.molecule.n_atoms))


def energy(molecule: Molecule, positions_nm: np.ndarray, conformers: np.ndarray | None = None) -> list[dict]:
    scorer = Scorer(molecule, positions_nm, FF, ScoreSettings(polar_hydrogen_starts=1))
    chosen = positions_nm[None] if conformers is None else conformers
    return list(scorer.rows(np.arange(len(chosen)), chosen))


def test_water_and_salt_are_left_out_and_counted() -> None:
    solute = peptide("ACE-ALA-NME")
    molecule, positions_nm = joined([lone_atoms("Na+", "Na", 1), solute, lone_atoms("HOH", "O", 3)])
    template = make_template(molecule, positions_nm, FF)
    assert template.record["left_out"] == {"HOH": 3, "Na+": 1}
    assert template.kept.tolist() == list(range(1, 11))
    there, alone = energy(molecule, positions_nm)[0], energy(*solute)[0]
    assert there["energy_kj_mol"] == alone["energy_kj_mol"]
    with pytest.raises(InputError, match="only water and ions"):
        make_template(*lone_atoms("HOH", "O", 3), FF)
    with pytest.raises(InputError, match="'ZN' is not a residue"):  # a metal site is no salt
        make_template(*joined([solute, lone_atoms("ZN", "Zn", 1)]), FF)


def test_sulphurs_at_a_bridges_distance_are_bonded() -> None:
    molecule, positions_nm = peptide("ACE-CYS-NME")
    sulphur = molecule.atom_names.index("SG")
    away = positions_nm[sulphur] - positions_nm.mean(axis=0)
    away /= np.linalg.norm(away)
    across = np.cross(away, [0.3, 0.5, 0.8])
    centred = positions_nm - positions_nm[sulphur]
    other = rotate(centred, across / np.linalg.norm(across), np.pi) + positions_nm[sulphur] + 0.205 * away
    pair, pair_nm = joined([(molecule, positions_nm), (molecule, other)])
    template = make_template(pair, pair_nm, FF)
    assert template.record["disulfides"] == ["CYS 2 and CYS 5"]
    assert template.record["protonation"] == {"CYS 2": "CYX", "CYS 5": "CYX"}
    assert template.molecule.elements.count("H") == 2 * 11  # ACE 3, H, HA, HB2, HB3, NME 4: no HG
    apart, apart_nm = joined([(molecule, positions_nm), (molecule, other + 0.3 * away)])
    assert make_template(apart, apart_nm, FF).record["protonation"] == {"CYS 2": "CYS", "CYS 5": "CYS"}


def test_a_broken_chain_ends_in_charged_termini_and_says_so() -> None:
    molecule, positions_nm = peptide("ACE-ALA-GLY-ALA-NME")
    c, n = molecule.atom_index(1, "C"), molecule.atom_index(3, "N")
    bridged = replace(molecule, bonds=np.concatenate([molecule.bonds, [[c, n]]]))  # as a reader bonds by names
    template = make_template(*without(bridged, positions_nm, residue=2), FF)
    assert template.record["chain_breaks"] == ["ALA 2 and ALA 3"]
    assert template.record["added_atoms"] == {"ALA 2": ["OXT"]}
    assert template.record["termini"] == {
        "charged_amino": ["ALA 3"],
        "charged_carboxyl": ["ALA 2"],
        "caps": ["ACE 1", "NME 4"],
    }
    assert charge(template) == pytest.approx(0.0, abs=1e-3)


def test_open_ends_get_their_oxygen_and_their_charges() -> None:
    molecule, positions_nm = peptide("ACE-ALA-LYS-NME")
    bare = without(*without(molecule, positions_nm, residue=3), residue=0)
    template = make_template(*bare, FF)
    assert template.record["added_atoms"] == {"LYS 2": ["OXT"]}
    assert template.record["termini"]["charged_amino"] == ["ALA 1"]
    assert charge(template) == pytest.approx(1.0, abs=1e-3)
    oxygen = template.molecule.atom_names.index("OXT")
    whole = template.place(bare[1][None])[0]
    carbon, other = (template.molecule.atom_index(1, name) for name in ("C", "O"))
    assert np.linalg.norm(whole[oxygen] - whole[carbon]) == pytest.approx(0.125, abs=0.01)
    assert np.linalg.norm(whole[oxygen] - whole[other]) == pytest.approx(0.22, abs=0.02)
    row = energy(*bare)[0]
    assert row["status"] == "ok"
    assert row["displacement_nm"] == 0  # what the input has stays where it is


def test_missing_side_chains_are_built_and_carried_to_every_conformer() -> None:
    molecule, positions_nm = peptide("ACE-LYS-VAL-NME")
    cut, cut_nm = without(molecule, positions_nm, "CG", "CD", "CE", "NZ", residue=1)
    cut, cut_nm = without(cut, cut_nm, "CG2", residue=2)
    template = make_template(cut, cut_nm, FF)
    assert template.record["added_atoms"] == {"LYS 2": ["CG", "CD", "CE", "NZ"], "VAL 3": ["CG2"]}
    assert sorted(template.molecule.atom_names) == sorted(make_template(molecule, positions_nm, FF).molecule.atom_names)
    assert (signed_volumes(template.positions_nm[None], template.molecule.stereocentres) > 0).all()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)  # a proper turn
    shaken = cut_nm + np.random.default_rng(1).normal(scale=0.003, size=cut_nm.shape)
    rows = energy(cut, cut_nm, np.array([cut_nm, cut_nm @ turn.T + 0.5, shaken]))
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert rows[1]["energy_kj_mol"] == pytest.approx(rows[0]["energy_kj_mol"], abs=0.05)
    whole = energy(molecule, positions_nm)[0]["energy_kj_mol"]
    # Another rotamer of the same molecule: tens of kJ/mol, where a wrong bond or atom costs thousands.
    assert abs(rows[0]["energy_kj_mol"] - whole) < 150
    bonds = template.molecule.bonds
    placed = template.place(shaken[None])[0]
    assert np.linalg.norm(placed[bonds[:, 0]] - placed[bonds[:, 1]], axis=1).max() < 0.2


def test_side_chains_built_from_the_backbone_alone_are_l() -> None:
    """On a helix the templates clash at first, and PDBFixer's dynamics would turn some centres over."""
    built = build_peptide("helix", "ACE-LYS-GLU-LEU-VAL-ARG-THR-NME", FF)
    whole_nm = start_structure(built, FF, ["alpha_r"] * 6)
    molecule, positions_nm = select_atoms(built.molecule, built.heavy), whole_nm[built.heavy]
    kept = {"N", "CA", "C", "O", "CH3"}
    bare, bare_nm = without(molecule, positions_nm, *(set(molecule.atom_names) - kept))
    template = make_template(bare, bare_nm, FF)
    assert len(template.molecule.stereocentres) == 6 + 1
    assert (signed_volumes(template.positions_nm[None], template.molecule.stereocentres) > 0).all()
    assert template.molecule.n_atoms == built.molecule.n_atoms


def test_without_a_backbone_nothing_is_built() -> None:
    molecule, positions_nm = peptide("ACE-ALA-NME")
    with pytest.raises(InputError, match="ALA lacks CA, and without the backbone"):
        make_template(*without(molecule, positions_nm, "CA", residue=1), FF)
    with pytest.raises(InputError, match="ACE lacks O"):
        make_template(*without(molecule, positions_nm, "O", residue=0), FF)


@pytest.mark.parametrize(
    ("name", "changes", "state", "total"),
    [
        ("HIS", {}, "HIE", 0),
        ("HIS", {"histidine": "HID"}, "HID", 0),
        ("HIS", {"ph": 5.0}, "HIP", 1),
        ("HSD", {"ph": 5.0}, "HID", 0),  # the topology's word goes before the rules
        ("HIP", {}, "HIP", 1),
        ("HIS", {"histidine": "hydrogen_bonds"}, "HID", 0),  # nothing near: OpenMM's choice
    ],
)
def test_histidine_follows_its_name_the_ph_and_the_setting(name: str, changes: dict, state: str, total: int) -> None:
    molecule, positions_nm = peptide("ACE-HIS-NME")
    named = replace(molecule, residue_names=("ACE", name, "NME"))
    template = make_template(named, positions_nm, FF.model_copy(update=changes))
    assert protonation(template.molecule) == {"HIS 2": state}
    assert charge(template) == pytest.approx(total, abs=1e-3)


def test_the_topologys_own_structure_decides_for_all_conformers() -> None:
    """An acceptor beside NE2 in the structure makes HIE; that the conformer has none there does not matter."""
    settings = FF.model_copy(update={"histidine": "hydrogen_bonds"})
    molecule, positions_nm = peptide("ACE-HIS-NME")
    ne2, cd2, ce1 = (molecule.atom_index(1, name) for name in ("NE2", "CD2", "CE1"))
    outward = 2 * positions_nm[ne2] - positions_nm[cd2] - positions_nm[ce1]
    cap, cap_nm = peptide("ACE-GLY-NME")
    oxygen = cap.atom_index(1, "O")
    spot = positions_nm[ne2] + 0.28 * outward / np.linalg.norm(outward)
    near, near_nm = joined([(molecule, positions_nm), (cap, cap_nm - cap_nm[oxygen] + spot)])
    far_nm = np.concatenate([positions_nm, cap_nm + 3.0])
    assert protonation(make_template(near, near_nm, settings).molecule) == {"HIS 2": "HIE"}
    assert protonation(make_template(near, far_nm, settings).molecule) == {"HIS 2": "HID"}
    decided = make_template(near, far_nm, settings, structure_nm=near_nm)
    assert protonation(decided.molecule) == {"HIS 2": "HIE"}
    assert usable_structure(near, near_nm * 0) is None
    with pytest.raises(ConfigError, match="no hydrogen bonds to decide"):
        build_peptide("his", "ACE-HIS-NME", settings)


@pytest.mark.parametrize(
    ("residue", "ph", "state", "total"),
    [("ASP", 3.0, "ASH", 0), ("ASP", 7.0, "ASP", -1), ("GLU", 3.0, "GLH", 0), ("LYS", 11.0, "LYN", 0)],
)
def test_the_ph_decides_acids_and_lysine(residue: str, ph: float, state: str, total: int) -> None:
    template = make_template(*peptide(f"ACE-{residue}-NME"), FF.model_copy(update={"ph": ph}))
    assert protonation(template.molecule) == {f"{residue} 2": state}
    assert charge(template) == pytest.approx(total, abs=1e-3)


def test_other_programs_names_and_an_amide_cap() -> None:
    molecule, positions_nm = peptide("ACE-ILE-ALA-NME")
    usual = energy(molecule, positions_nm)[0]["energy_kj_mol"]
    atom_names = tuple({"CD1": "CD"}.get(n, n) if r == 1 else {"CH3": "CAY"}.get(n, n) if r == 0 else n for n, r in zip(
        molecule.atom_names, molecule.residue_of_atom, strict=True))  # fmt: skip
    other = replace(molecule, atom_names=atom_names, residue_names=("ACE", "ILE", "NALA", "NMA"))
    assert energy(other, positions_nm)[0]["energy_kj_mol"] == pytest.approx(usual, abs=1e-6)
    amide, amide_nm = without(molecule, positions_nm, "C", residue=3)
    template = make_template(replace(amide, residue_names=("ACE", "ILE", "ALA", "NH2")), amide_nm, FF)
    assert charge(template) == pytest.approx(0.0, abs=1e-3)
    assert template.molecule.n_atoms == 6 + 19 + 10 + 3
    assert (standard_residue("CGLU"), standard_residue("HSP")) == (("GLU", None), ("HIS", "HIP"))
    assert (standard_atom("ALA", "OT2"), standard_atom("NME", "CH3")) == ("OXT", "C")


def test_conformers_of_another_molecule_or_order_are_told_from_bad_ones() -> None:
    molecule, positions_nm = peptide("ACE-SER-NME")
    rng = np.random.default_rng(2)
    good = positions_nm + rng.normal(scale=0.004, size=(5, *positions_nm.shape))
    check_atoms(molecule, good)
    swapped = good.copy()
    o, cb = molecule.atom_index(1, "O"), molecule.atom_index(1, "CB")
    swapped[:, [o, cb]] = good[:, [cb, o]]
    for wrong in (swapped, good[:, ::-1], good[:1, rng.permutation(molecule.n_atoms)]):
        with pytest.raises(InputError, match="another molecule, or their atoms are in another order"):
            check_atoms(molecule, wrong)
    check_atoms(molecule, rng.normal(scale=0.2, size=(20, *positions_nm.shape)))  # a model that knows nothing yet
    with pytest.raises(InputError, match="another molecule"):
        open_scorer(Ensemble(molecule, swapped.astype(np.float32)), FF, ScoreSettings(), structure_nm=positions_nm)
