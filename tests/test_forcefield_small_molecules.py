"""MMFF94 and GFN2-xTB behind PythonForces: RDKit and tblite called plainly, published numbers, finite differences."""

import copy
import importlib.util
import sys
from typing import Any

import numpy as np
import openmm
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from ancdiff.chemistry import molecule_of_graph
from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.errors import ConfigError, InputError
from ancdiff.forcefield.energies import FAILURES, Scorer, nearest_allowed_nm
from ancdiff.forcefield.platforms import choose_platform
from ancdiff.forcefield.small_molecules import (
    MMFF94_TERMS,
    Gfn2Xtb,
    Mmff94,
    ModelMetric,
    SmallTemplate,
    longest_bonds_nm,
    make_small_template,
)
from ancdiff.molecules import Molecule
from ancdiff.units import BOHR_NM, HARTREE_KJ_MOL, KJ_PER_KCAL

needs_tblite = pytest.mark.skipif(
    importlib.util.find_spec("tblite") is None,
    reason="tblite is not installed (it has no wheel for this machine)",
)
BOTH = ["mmff94", pytest.param("gfn2-xtb", marks=needs_tblite)]
# Water as in the G2 set (Å): the geometry of tblite's own documentation.
WATER_NM = np.array([[0.0, 0.0, 0.119262], [0.0, 0.763239, -0.477047], [0.0, -0.763239, -0.477047]]) / 10


def embedded(smiles: str, conformers: int = 1, *, seed: int = 7) -> tuple[Molecule, np.ndarray]:
    graph = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert len(rdDistGeom.EmbedMultipleConfs(graph, conformers, randomSeed=seed)) == conformers
    positions_nm = np.array([c.GetPositions() for c in graph.GetConformers()]) / 10
    return molecule_of_graph(Chem.Mol(graph, confId=0), smiles), positions_nm


def scorer_of(molecule: Molecule, example_nm: np.ndarray, field: str, **score: Any) -> Scorer:
    settings = ForcefieldSettings(small_molecule=field)  # type: ignore[arg-type]
    return Scorer(molecule, example_nm, settings, ScoreSettings(**score))


def rows_of(scorer: Scorer, positions_nm: np.ndarray) -> list[dict[str, Any]]:
    return list(scorer.rows(np.arange(len(positions_nm)), positions_nm))


def one(smiles: str, positions_nm: np.ndarray, field: str, **score: Any) -> dict[str, Any]:
    molecule, _ = embedded(smiles)
    [row] = rows_of(scorer_of(molecule, positions_nm, field, **score), positions_nm[None])
    assert row["status"] == "ok"
    return row


def plain_mmff94_kcal_mol(smiles: str, positions_nm: np.ndarray) -> float:
    graph = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(graph, randomSeed=1)
    for i, xyz in enumerate(positions_nm * 10):
        graph.GetConformer().SetAtomPosition(i, xyz.tolist())
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(graph)
    return rdForceFieldHelpers.MMFFGetMoleculeForceField(graph, properties).CalcEnergy()


def plain_gfn2_hartree(numbers: list[int], positions_nm: np.ndarray, charge: int = 0) -> float:
    from tblite.interface import Calculator

    calculator = Calculator("GFN2-xTB", np.array(numbers), positions_nm / BOHR_NM, charge=charge)
    calculator.set("verbosity", 0)
    return calculator.singlepoint().get("energy")


# Halogens, aromatic and fused rings, charges, sulfur and phosphorus, strained rings, triple bonds.
SMILES = ["CCO", "c1ccc2[nH]ccc2c1", "CC(=O)[O-]", "C[NH3+]", "CS(=O)(=O)NC", "FC(Cl)Br", "C1CC1C#N", "OP(=O)(O)O"]


@pytest.mark.parametrize("smiles", SMILES)
def test_mmff94_is_rdkits_own_and_the_sum_of_its_parts(smiles: str) -> None:
    molecule, positions_nm = embedded(smiles, 2)
    rows = rows_of(scorer_of(molecule, positions_nm[0], "mmff94", relax="none"), positions_nm)
    for row, xyz in zip(rows, positions_nm, strict=True):
        assert row["status"] == "ok"
        assert row["energy_kj_mol"] == pytest.approx(plain_mmff94_kcal_mol(smiles, xyz) * 4.184, rel=1e-9, abs=1e-9)
        assert sum(row[f"{part}_kj_mol"] for part in MMFF94_TERMS) == pytest.approx(row["energy_kj_mol"], abs=1e-9)
        assert (
            row["electronic_kj_mol"] == row["solvation_kj_mol"] == row["strain_kj_mol"] == row["displacement_nm"] == 0
        )


@needs_tblite
@pytest.mark.parametrize(("smiles", "charge"), [("CCO", 0), ("[NH4+]", 1), ("CC(=O)[O-]", -1)])
def test_gfn2_is_tblites_own_and_ions_carry_their_charge(smiles: str, charge: int) -> None:
    molecule, positions_nm = embedded(smiles)
    numbers = [Chem.GetPeriodicTable().GetAtomicNumber(e) for e in molecule.elements]
    plain = plain_gfn2_hartree(numbers, positions_nm[0], charge)
    row = one(smiles, positions_nm[0], "gfn2-xtb", relax="none")
    assert row["energy_kj_mol"] == pytest.approx(plain * HARTREE_KJ_MOL, rel=1e-12)
    assert row["electronic_kj_mol"] == row["energy_kj_mol"]
    assert row["nonbonded_kj_mol"] == 0


@needs_tblite
def test_water_has_the_published_gfn2_energies() -> None:
    # tblite's documentation: −137.96777594361677 eV for this geometry, in ASE's units (27.211386024367243 eV).
    row = one("O", WATER_NM, "gfn2-xtb", relax="none")
    assert row["energy_kj_mol"] / HARTREE_KJ_MOL == pytest.approx(-137.96777594361677 / 27.211386024367243, abs=1e-9)
    # The xtb program, another implementation, optimises water to −5.0705444446 Hartree (its manual, optimisation).
    relaxed = one("O", WATER_NM, "gfn2-xtb", relax="full", tolerance_kj_mol_nm=0.1)
    assert relaxed["energy_kj_mol"] / HARTREE_KJ_MOL == pytest.approx(-5.070544444, abs=2e-8)
    assert relaxed["strain_kj_mol"] == pytest.approx(row["energy_kj_mol"] - relaxed["energy_kj_mol"], abs=1e-6)
    assert 0 < relaxed["displacement_nm"] < 0.005


def test_butane_has_mmff94s_published_gauche_energy() -> None:
    # 0.78 kcal/mol: Halgren and Nachbar, J. Comput. Chem. 17, 587 (1996).
    molecule, positions_nm = embedded("CCCC", 8)
    rows = rows_of(scorer_of(molecule, positions_nm[0], "mmff94", relax="full", tolerance_kj_mol_nm=0.1), positions_nm)
    energies = np.array([row["energy_kj_mol"] for row in rows]) / KJ_PER_KCAL
    levels = np.unique((energies - energies.min()).round(2))
    assert levels == pytest.approx([0.0, 0.78], abs=0.015)
    # Of what RDKit's own minimiser finds the lowest is no lower.
    graph = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    rdDistGeom.EmbedMultipleConfs(graph, 8, randomSeed=7)
    assert (
        energies.min() <= min(e for _, e in rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(graph, maxIters=5000)) + 1e-3
    )


@pytest.mark.parametrize("field", BOTH)
def test_forces_are_minus_the_gradient_of_the_energy_wherever_the_last_call_was(field: str) -> None:
    # RDKit's gradient at x is wrong where the last energy was taken at another place: y comes between.
    molecule, (x, y) = embedded("CC(=O)N", 2)
    scorer = scorer_of(molecule, x, field, relax="none")
    rng = np.random.default_rng(1)
    direction = rng.normal(size=x.shape)
    direction /= np.linalg.norm(direction)
    scorer.relaxer.energy_kj_mol(y)
    forces = scorer.relaxer.forces_kj_mol_nm(x)
    h = 1e-4
    up, down = (scorer.relaxer.energy_kj_mol(x + s * h * direction) for s in (1.0, -1.0))
    slope = (up - down) / (2 * h)
    assert abs(slope) > 50
    assert -np.vdot(forces, direction) == pytest.approx(slope, rel=1e-4)
    assert np.abs(forces.sum(axis=0)).max() < 1e-2  # no net force …
    assert np.abs(np.cross(x, forces).sum(axis=0)).max() < 1e-2  # … and no net torque


@pytest.mark.parametrize("field", BOTH)
def test_energies_do_not_depend_on_the_conformers_before_nor_on_turns_of_the_whole(field: str) -> None:
    molecule, positions_nm = embedded("OCC=O", 2)
    there = rows_of(scorer_of(molecule, positions_nm[0], field), positions_nm)
    back = rows_of(scorer_of(molecule, positions_nm[1], field), positions_nm[::-1])[::-1]
    for a, b in zip(there, back, strict=True):
        assert a["energy_kj_mol"] == b["energy_kj_mol"]  # to the last bit
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    turned = rows_of(scorer_of(molecule, positions_nm[0], field, relax="none"), positions_nm @ turn.T + 0.3)
    plain = rows_of(scorer_of(molecule, positions_nm[0], field, relax="none"), positions_nm)
    assert [r["energy_kj_mol"] for r in turned] == pytest.approx([r["energy_kj_mol"] for r in plain], abs=1e-4)


@pytest.mark.parametrize("field", BOTH)
@pytest.mark.parametrize("relax", ["hydrogens", "restrained", "full"])
def test_relaxation_moves_what_it_should_and_ends_where_the_forces_do(field: str, relax: str) -> None:
    molecule, positions_nm = embedded("CC=O")
    scorer = scorer_of(molecule, positions_nm[0], field, relax=relax)
    [row] = rows_of(scorer, positions_nm)
    assert row["status"] == "ok"
    assert row["strain_kj_mol"] == pytest.approx(row["energy_placed_kj_mol"] - row["energy_kj_mol"], abs=1e-6)
    assert row["strain_kj_mol"] > 1
    relaxed = scorer.relaxer.relax(positions_nm[0])
    moved_nm = np.linalg.norm(relaxed.positions_nm - positions_nm[0], axis=1)
    heavy = np.array(molecule.elements) != "H"
    forces = scorer.relaxer.forces_kj_mol_nm(relaxed.positions_nm)
    free = forces if relax == "full" else forces[~heavy]
    assert moved_nm[~heavy].min() > 1e-4
    if relax == "hydrogens":
        assert moved_nm[heavy].max() == 0
    if relax != "restrained":
        assert np.sqrt(np.mean(free**2)) <= 1.0  # the tolerance
    again = scorer.relaxer.relax(relaxed.positions_nm)
    if relax != "restrained":  # whose restraint is about its start
        assert again.energy_kj_mol == pytest.approx(relaxed.energy_kj_mol, abs=1e-6)


def test_hydrogen_entropy_goes_with_molecules_too() -> None:
    molecule, positions_nm = embedded("CCO")
    plain = rows_of(scorer_of(molecule, positions_nm[0], "mmff94"), positions_nm)[0]
    whole = rows_of(scorer_of(molecule, positions_nm[0], "mmff94", hydrogen_entropy="harmonic"), positions_nm)[0]
    assert whole["hydrogen_entropy_kj_mol"] != 0
    assert whole["energy_kj_mol"] - whole["hydrogen_entropy_kj_mol"] == pytest.approx(plain["energy_kj_mol"], abs=1e-9)
    assert whole["strain_kj_mol"] == pytest.approx(plain["strain_kj_mol"], abs=1e-9)


@needs_tblite
def test_the_metric_is_mmff94s_hessian_and_saves_energies(monkeypatch: pytest.MonkeyPatch) -> None:
    molecule, positions_nm = embedded("CC=O")
    template = make_small_template(molecule, positions_nm[0], ForcefieldSettings(small_molecule="gfn2-xtb"))
    assert template.mmff94
    evaluations = []
    honest = Gfn2Xtb.energy_and_forces

    def counting(self: Gfn2Xtb, positions_nm: np.ndarray) -> Any:
        evaluations[-1] += 1
        return honest(self, positions_nm)

    monkeypatch.setattr(Gfn2Xtb, "energy_and_forces", counting)
    found = []
    for without in (False, True):
        if without:
            monkeypatch.setattr(ModelMetric, "at", lambda self, _: lambda vector: vector / 100_000.0)
        evaluations.append(0)
        found.append(rows_of(scorer_of(molecule, positions_nm[0], "gfn2-xtb", relax="full"), positions_nm)[0])
    assert found[0]["energy_kj_mol"] == pytest.approx(found[1]["energy_kj_mol"], abs=0.05)
    assert evaluations[0] < 0.6 * evaluations[1]


@pytest.mark.parametrize("field", BOTH)
def test_a_system_can_be_copied_and_written(field: str) -> None:
    # OpenMM copies by way of XML and so pickles the functions: an unpicklable one would fail only there.
    molecule, positions_nm = embedded("CO")
    settings = ForcefieldSettings(small_molecule=field)  # type: ignore[arg-type]
    system = make_small_template(molecule, positions_nm[0], settings).system
    energies = []
    read = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    for copied in (system, copy.deepcopy(system), read):
        platform = choose_platform("auto", copied)
        assert platform.getName() == "Reference"
        context = openmm.Context(copied, openmm.VerletIntegrator(0.001), platform)
        context.setPositions(positions_nm[0])
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert energies[0] == energies[1] == energies[2] != 0


@pytest.mark.parametrize("field", BOTH)
def test_bad_conformers_have_their_reason_and_the_others_their_energies(field: str) -> None:
    molecule, start_nm = embedded("C[C@H](O)F", 1)
    bad = np.repeat(start_nm, 7, axis=0)
    bad[0, 0, 0] = np.nan
    bad[1, 1] = bad[1, 0]  # one place
    bad[2] *= -1.0  # the other enantiomer
    bad[3, -1] += 0.5  # a hydrogen torn off
    bad[4] = bad[4][::-1]  # another order of atoms
    bad[5, 4] = bad[5, 5] + 0.001  # hydrogens in one another
    scorer = scorer_of(molecule, start_nm[0], field, relax="full")
    rows = rows_of(scorer, bad)
    assert [row["status"] for row in rows[:4]] == ["nan_input", "clash", "broken_chirality", "broken_bond"]
    assert rows[4]["status"] in ("broken_bond", "broken_chirality", "clash")
    assert rows[5]["status"] == "clash"
    assert rows[6]["status"] == "ok"
    assert all(np.isnan(row["energy_kj_mol"]) for row in rows[:6])
    assert {row["status"] for row in rows} - {"ok"} <= set(FAILURES)


@needs_tblite
def test_electrons_that_do_not_converge_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    molecule, positions_nm = embedded("CO", 3)
    honest = Gfn2Xtb.energy_and_forces

    def failing(self: Gfn2Xtb, xyz: np.ndarray) -> Any:
        if abs(xyz[0, 0] - positions_nm[1, 0, 0]) < 1e-12:
            self._calculator = None
            xyz = np.zeros_like(xyz)  # tblite itself refuses this
        return honest(self, xyz)

    monkeypatch.setattr(Gfn2Xtb, "energy_and_forces", failing)
    rows = rows_of(scorer_of(molecule, positions_nm[0], "gfn2-xtb", relax="none"), positions_nm)
    assert [row["status"] for row in rows] == ["ok", "no_electrons", "ok"]


@needs_tblite
def test_a_step_into_a_clash_is_taken_back() -> None:
    # A trial step without an energy must shorten the step, not end the conformer.
    molecule, positions_nm = embedded("O")
    scorer = scorer_of(molecule, positions_nm[0], "gfn2-xtb", relax="full")
    squeezed = positions_nm.copy()
    squeezed[0, 1] = squeezed[0, 0] + 0.6 * (squeezed[0, 1] - squeezed[0, 0])
    [row] = rows_of(scorer, squeezed)
    assert row["status"] == "ok"
    assert row["energy_kj_mol"] / HARTREE_KJ_MOL == pytest.approx(-5.070544444, abs=1e-6)


def make(smiles: str, field: str | None, *, sanitize: bool = True) -> SmallTemplate:
    graph = Chem.MolFromSmiles(smiles, sanitize=sanitize)
    graph = Chem.AddHs(graph)
    graph.AddConformer(Chem.Conformer(graph.GetNumAtoms()))
    molecule = molecule_of_graph(graph, smiles)
    positions_nm = np.random.default_rng(0).normal(size=(molecule.n_atoms, 3))
    return make_small_template(molecule, positions_nm, ForcefieldSettings(small_molecule=field))  # type: ignore[arg-type]


def test_molecules_that_a_force_field_does_not_know_are_named() -> None:
    with pytest.raises(ConfigError, match="no force field for such molecules is chosen"):
        make("CCO", None)
    with pytest.raises(InputError, match="MMFF94 has no parameters for B"):
        make("CB(O)O", "mmff94")
    with pytest.raises(InputError, match="MMFF94 has no parameters for an atom type"):
        make("O=O", "mmff94")
    for field in ("mmff94", "gfn2-xtb"):
        with pytest.raises(InputError, match="1 unpaired electrons"):
            make("[CH3]", field)
    with pytest.raises(InputError, match="unpaired electrons"):
        make("[O][O]", "gfn2-xtb")


@needs_tblite
def test_gfn2_knows_what_mmff94_does_not_but_not_all() -> None:
    assert not make("CB(O)O", "gfn2-xtb").mmff94
    with pytest.raises(InputError, match="no parameters for Fr: it ends at radon"):
        make("[Fr+]", "gfn2-xtb")


@needs_tblite
def test_a_molecule_without_mmff94_parameters_relaxes_too() -> None:
    molecule, positions_nm = embedded("OBO")
    [row] = rows_of(scorer_of(molecule, positions_nm[0], "gfn2-xtb", relax="full"), positions_nm)
    assert row["status"] == "ok"
    assert row["strain_kj_mol"] > 1


def test_without_tblite_the_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tblite", None)
    with pytest.raises(ConfigError, match="pip install"):
        make("CCO", "gfn2-xtb")


def test_all_pairs_count_whatever_conformer_the_field_was_made_with() -> None:
    # Two methanes: RDKit would leave out the pairs between fragments, and pairs beyond 100 Å of the first conformer.
    molecule, _ = embedded("C.C")
    graph = Chem.AddHs(Chem.MolFromSmiles("C.C"))
    rdDistGeom.EmbedMolecule(graph, randomSeed=7)
    near = graph.GetConformer().GetPositions() / 10
    second = [1, *range(6, 10)]
    near[second] += near[0] + np.array([0.4, 0.0, 0.0]) - near[1]
    far = near.copy()
    far[second] += 20.0
    energies = [
        rows_of(scorer_of(molecule, example, "mmff94", relax="none"), np.array([near, far])) for example in (near, far)
    ]
    assert energies[0][0]["energy_kj_mol"] == pytest.approx(energies[1][0]["energy_kj_mol"], abs=1e-9)
    assert energies[0][0]["nonbonded_kj_mol"] < -0.1
    assert abs(energies[0][1]["nonbonded_kj_mol"]) < 1e-3


def test_bonds_of_real_molecules_are_not_broken() -> None:
    # Long ones of their kind (Å): F–F 1.412, N–N of N2O4 1.78, I–I 2.67, C–C of a crowded ethane 1.7.
    for a, b, angstrom in (("F", "F", 1.412), ("N", "N", 1.78), ("I", "I", 2.67), ("C", "C", 1.7), ("H", "H", 0.741)):
        pair = Molecule("x", (f"{a}1", f"{b}2"), (a, b), ("UNL",), np.array([0, 0]), np.array([[0, 1]]))
        longest = longest_bonds_nm(pair)[0] * 10
        assert angstrom < longest < 2.2 * angstrom
    assert nearest_allowed_nm(pair).max() == 0


def test_mmff94_is_made_anew_from_what_it_was_made_from() -> None:
    graph = Chem.AddHs(Chem.MolFromSmiles("CO"))
    rdDistGeom.EmbedMolecule(graph, randomSeed=7)
    x = graph.GetConformer().GetPositions() / 10
    one = Mmff94(graph.ToBinary(), ("Bond", "Angle"))
    assert copy.deepcopy(one).energy_and_forces(x)[0] == one.energy_and_forces(x)[0] > 0
