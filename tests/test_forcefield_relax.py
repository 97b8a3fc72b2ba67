"""Hydrogens, relaxation and energies of conformers, against plain OpenMM and known answers."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import openmm
import pytest
from openmm import app, unit

from ancdiff.basins import dihedrals
from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.errors import InputError
from ancdiff.forcefield.build import Peptide, build_peptide, set_torsion, start_structure
from ancdiff.forcefield.checks import check_units
from ancdiff.forcefield.energies import FAILURES, Scorer, nearest_allowed_nm, open_scorer
from ancdiff.forcefield.entropy import hydrogen_entropy_kj_mol, hydrogen_hessian
from ancdiff.forcefield.lbfgs import minimise_lbfgs
from ancdiff.forcefield.metric import HydrogenMetric
from ancdiff.forcefield.prepare import check_residues
from ancdiff.forcefield.relax import Relaxer
from ancdiff.forcefield.system import PROTEIN_FILES, SOLVENT_FILES, create_system, with_merged_caps
from ancdiff.forcefield.template import make_template, protonation
from ancdiff.forcefield.topology import select_atoms
from ancdiff.molecules import ENERGY_COLUMNS, Ensemble, Molecule
from ancdiff.units import thermal_energy_kj_mol

FORCEFIELD = ForcefieldSettings(platform="Reference")
PARTS = ("bond", "angle", "torsion", "nonbonded", "solvation")


@pytest.fixture(scope="module")
def serine() -> Peptide:
    return build_peptide("ser", "ACE-SER-NME", FORCEFIELD)


def heavy(peptide: Peptide) -> Molecule:
    return select_atoms(peptide.molecule, peptide.heavy)


def shaken(peptide: Peptide, conformers: int, *, seed: int = 3) -> np.ndarray:
    """Heavy atoms of a peptide in its basins, off their minima by 0.003 nm, as at 300 K."""
    rng = np.random.default_rng(seed)
    n = len(peptide.molecule.ramachandran_residues())
    starts = [start_structure(peptide, FORCEFIELD, [basin] * n)[peptide.heavy] for basin in ("alpha_r", "beta")]
    return np.array([starts[k % 2] for k in range(conformers)]) + rng.normal(
        scale=0.003, size=(conformers, len(peptide.heavy), 3)
    )


def scorer_of(peptide: Peptide, *, forcefield: ForcefieldSettings = FORCEFIELD, **score: Any) -> Scorer:
    return Scorer(heavy(peptide), peptide.positions_nm[peptide.heavy], forcefield, ScoreSettings(**score))


def rows_of(scorer: Scorer, positions_nm: np.ndarray) -> list[dict[str, Any]]:
    return list(scorer.rows(np.arange(len(positions_nm)), positions_nm))


@cache
def plain_forcefield(*files: str) -> Any:
    return app.ForceField(*files)


def plain_energy_kj_mol(topology: Any, positions_nm: np.ndarray, files: list[str]) -> float:
    """The energy by nothing but OpenMM's own application layer."""
    system = plain_forcefield(*files).createSystem(topology, nonbondedMethod=app.NoCutoff)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions_nm)
    return context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


@pytest.mark.filterwarnings("ignore::UserWarning")  # charmm36.xml announces its unused patches
@pytest.mark.parametrize(
    ("protein", "solvent"),
    [
        ("ff14SB", "obc2"),
        ("ff14SB", "gbn2"),
        ("ff14SB", "vacuum"),
        ("ff19SB", "obc2"),
        ("amber99sb-ildn", "obc2"),
        pytest.param("charmm36", "gbn2", marks=pytest.mark.slow),
    ],
)
def test_the_energy_is_that_of_a_plain_script_and_the_sum_of_its_parts(
    serine: Peptide, protein: str, solvent: str
) -> None:
    settings = ForcefieldSettings(protein=protein, solvent=solvent, platform="Reference")  # type: ignore[arg-type]
    scorer = scorer_of(serine, forcefield=settings, relax="none")
    conformers = shaken(serine, 2)
    whole = scorer.template.place(conformers)
    files = [PROTEIN_FILES[protein], *([SOLVENT_FILES[solvent]] if solvent != "vacuum" else [])]
    for row, positions_nm in zip(rows_of(scorer, conformers), whole, strict=True):
        topology = scorer.template.topology
        if protein == "charmm36":  # caps are patches there
            topology = with_merged_caps(topology)
        plain = plain_energy_kj_mol(topology, positions_nm, files)
        assert row["status"] == "ok"
        # GBSAOBCForce's own constants differ from the XML's in the seventh digit.
        assert row["energy_kj_mol"] == pytest.approx(plain, rel=1e-5)
        assert row["energy_placed_kj_mol"] == pytest.approx(row["energy_kj_mol"], rel=1e-9)
        assert sum(row[f"{part}_kj_mol"] for part in PARTS) == pytest.approx(row["energy_kj_mol"], rel=1e-9)
        assert row["solvation_kj_mol"] < -10 if solvent != "vacuum" else row["solvation_kj_mol"] == 0


def test_native_obc2_has_the_energies_and_forces_of_the_xml(serine: Peptide) -> None:
    results = []
    for native in (True, False):
        system = create_system(serine.topology, FORCEFIELD, native_solvent=native)
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(serine.positions_nm)
        state = context.getState(energy=True, forces=True)
        results.append((state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)))
    assert any(isinstance(f, openmm.GBSAOBCForce) for f in create_system(serine.topology, FORCEFIELD).getForces())
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert np.abs(results[0][1] - results[1][1]).max() < 1e-4 * np.abs(results[1][1]).max()


def test_placed_hydrogens_keep_the_templates_geometry_in_every_conformer(serine: Peptide) -> None:
    scorer = scorer_of(serine)
    template = scorer.template
    conformers = np.array(
        [set_torsion(serine.molecule, serine.positions_nm, serine.molecule.torsion(1, "phi"), a) for a in (-1.0, 1.0)]
    )[:, serine.heavy]
    placed = template.place(conformers)
    assert np.array_equal(placed[:, template.input_atoms], conformers)
    bonds = [(a, b) for a, b in template.molecule.bonds if template.molecule.elements[b] == "H"]
    assert len(bonds) == 13 - 1  # ACE 3, NH, HA, HB2, HB3, HG, NH, CH3 3
    for a, b in bonds:
        there = np.linalg.norm(template.positions_nm[a] - template.positions_nm[b])
        assert np.linalg.norm(placed[:, a] - placed[:, b], axis=1) == pytest.approx(there, abs=1e-9)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = template.place(conformers @ turn.T + 0.3)
    assert np.allclose(moved, placed @ turn.T + 0.3, atol=1e-12)


def test_the_placed_alpha_hydrogen_has_the_hand_of_its_conformer(serine: Peptide) -> None:
    """Seen from HA, CO–R–N run clockwise in L, and mirrored heavy atoms get the mirrored hydrogen."""
    template = scorer_of(serine).template
    molecule = template.molecule
    centre, ha, n, c, cb = (molecule.atom_index(1, name) for name in ("CA", "HA", "N", "C", "CB"))
    conformers = shaken(serine, 2)
    for positions_nm, sign in ((conformers, 1), (conformers * np.array([1.0, 1, -1]), -1)):
        placed = template.place(positions_nm)
        for x in placed:
            towards = x[ha] - x[centre]
            assert towards @ (x[n] + x[c] + x[cb] - 3 * x[centre]) < 0
            assert np.sign(np.dot(np.cross(x[n] - x[centre], x[c] - x[centre]), x[cb] - x[centre])) == sign


def test_hydrogens_mode_moves_no_heavy_atom_and_ends_where_openmm_does(serine: Peptide) -> None:
    scorer = scorer_of(serine, polar_hydrogen_starts=1)
    template, relaxer = scorer.template, scorer.relaxer
    whole = template.place(shaken(serine, 6))
    system = create_system(template.topology, FORCEFIELD)
    for atom in template.placer.heavy:
        system.setParticleMass(int(atom), 0.0)
    plain = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    for positions_nm in whole:
        relaxed = relaxer.relax(positions_nm)
        assert np.array_equal(relaxed.positions_nm[template.placer.heavy], positions_nm[template.placer.heavy])
        plain.setPositions(positions_nm)
        openmm.LocalEnergyMinimizer.minimize(plain, 1.0)
        expected = plain.getState(energy=True).getPotentialEnergy()._value
        assert relaxed.energy_kj_mol == pytest.approx(expected, abs=0.1)  # kT/25
        assert relaxed.energy_kj_mol < relaxer.energy_kj_mol(positions_nm) - 0.1
        assert relaxed.rms_force_kj_mol_nm <= 1.0


@pytest.mark.parametrize("relax", ["restrained", "full"])
def test_other_modes_reach_the_energy_of_a_plain_minimisation(serine: Peptide, relax: str) -> None:
    conformers = shaken(serine, 2)
    scorer = scorer_of(serine, relax=relax, polar_hydrogen_starts=1)
    tight = scorer_of(serine, relax="hydrogens", polar_hydrogen_starts=1)
    for row, fixed, positions_nm in zip(
        rows_of(scorer, conformers), rows_of(tight, conformers), scorer.template.place(conformers), strict=True
    ):
        assert row["status"] == "ok"
        assert row["energy_kj_mol"] < fixed["energy_kj_mol"] - 1.0
        assert row["displacement_nm"] > 1e-4
        if relax == "full":
            system = create_system(scorer.template.topology, FORCEFIELD)
            plain = openmm.Context(
                system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
            )
            plain.setPositions(positions_nm)
            openmm.LocalEnergyMinimizer.minimize(plain)
            expected = plain.getState(energy=True).getPotentialEnergy()._value
            assert row["energy_kj_mol"] <= expected + 0.01 * abs(expected)


@pytest.mark.parametrize("relax", ["hydrogens", "full"])
@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_minimised_energies_are_those_of_a_plain_script_or_lower(serine: Peptide, relax: str, platform: str) -> None:
    """From the same atoms, with as many iterations to the same force, by the XML's CustomGBForce."""
    settings = ForcefieldSettings(platform=platform)  # type: ignore[arg-type]
    scorer = scorer_of(serine, forcefield=settings, relax=relax)
    conformers = shaken(serine, 2)
    system = plain_forcefield("amber14/protein.ff14SB.xml", "implicit/obc2.xml").createSystem(scorer.template.topology)
    if relax == "hydrogens":
        for atom in scorer.template.input_atoms:
            system.setParticleMass(int(atom), 0.0)  # OpenMM's minimiser leaves it where it is
    plain = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    for row, start_nm in zip(rows_of(scorer, conformers), scorer.template.place(conformers), strict=True):
        plain.setPositions(start_nm)
        assert row["energy_placed_kj_mol"] == pytest.approx(
            plain.getState(energy=True).getPotentialEnergy()._value, rel=1e-5
        )
        openmm.LocalEnergyMinimizer.minimize(plain, ScoreSettings().tolerance_kj_mol_nm, 500)
        expected = plain.getState(energy=True).getPotentialEnergy()._value
        assert row["status"] == "ok"
        assert row["energy_kj_mol"] <= expected + 0.01 * abs(expected)


def test_a_stiffer_restraint_moves_less_and_its_energy_is_not_reported(serine: Peptide) -> None:
    conformers = shaken(serine, 1)
    moved = []
    for k in (1_000.0, 1_000_000.0):  # softer and stiffer than a C–C bond's 259,000
        scorer = scorer_of(serine, relax="restrained", restraint_kj_mol_nm2=k, polar_hydrogen_starts=1)
        relaxed = scorer.relaxer.relax(scorer.template.place(conformers)[0])
        again = Relaxer(scorer.template, FORCEFIELD, ScoreSettings(relax="none"))
        assert relaxed.energy_kj_mol == pytest.approx(again.energy_kj_mol(relaxed.positions_nm), rel=1e-9)
        moved.append(rows_of(scorer, conformers)[0]["displacement_nm"])
    assert moved[1] < 0.5 * moved[0]


def test_several_starts_of_a_hydroxyl_find_the_lowest_of_its_minima(serine: Peptide) -> None:
    molecule = serine.molecule
    torsion = tuple(molecule.atom_index(1, name) for name in ("CA", "CB", "OG", "HG"))
    conformers = shaken(serine, 4)
    one, three = (scorer_of(serine, polar_hydrogen_starts=starts) for starts in (1, 3))
    gains = []
    for positions_nm in three.template.place(conformers):
        found = three.relaxer.relax(positions_nm)
        minima = []
        for angle in np.radians(np.arange(0, 360, 30)):
            turned = set_torsion(three.template.molecule, positions_nm, torsion, angle)  # type: ignore[arg-type]
            minima.append(one.relaxer.relax(turned).energy_kj_mol)
        assert found.energy_kj_mol == pytest.approx(min(minima), abs=0.1)
        gains.append(max(minima) - min(minima))
        assert np.isfinite(dihedrals(found.positions_nm[None], np.array([torsion]))).all()
    assert max(gains) > 2.0  # the minima differ, so that choosing matters


def test_the_stand_in_ends_at_the_full_energys_minimum_with_fewer_of_its_evaluations() -> None:
    """On the CPU platform; the Reference platform has none and is what it is measured by."""
    peptide = build_peptide("six", "ACE-LYS-SER-GLU-LEU-TYR-ARG-NME", FORCEFIELD)
    conformers = peptide.positions_nm[peptide.heavy] + np.random.default_rng(4).normal(
        scale=0.003, size=(3, len(peptide.heavy), 3)
    )
    cpu, exact = (
        scorer_of(peptide, forcefield=ForcefieldSettings(platform=platform), polar_hydrogen_starts=1)
        for platform in ("CPU", "Reference")
    )
    assert cpu.relaxer.surrogate is not None
    assert exact.relaxer.surrogate is None
    ours, plain = rows_of(cpu, conformers), rows_of(exact, conformers)
    for row, other in zip(ours, plain, strict=True):
        assert row["status"] == "ok"
        assert row["energy_kj_mol"] == pytest.approx(other["energy_kj_mol"], abs=0.3)  # kT/8; single precision
        assert row["energy_hydrogens_kj_mol"] == pytest.approx(row["energy_kj_mol"], rel=1e-5)
    assert sum(row["steps"] for row in ours) < 0.7 * sum(row["steps"] for row in plain)


def test_numbers_do_not_depend_on_the_number_of_threads(serine: Peptide) -> None:
    conformers = shaken(serine, 3)
    settings = ForcefieldSettings(platform="CPU")
    tables = [
        rows_of(
            Scorer(heavy(serine), serine.positions_nm[serine.heavy], settings, ScoreSettings(), threads=threads),
            conformers,
        )
        for threads in (1, 2)
    ]
    for one, two in zip(*tables, strict=True):
        # Sums of single-precision terms in another order: what docs/performance.md states.
        assert one["energy_placed_kj_mol"] == pytest.approx(two["energy_placed_kj_mol"], rel=1e-5)
        assert one["energy_kj_mol"] == pytest.approx(two["energy_kj_mol"], abs=0.1)


def test_restrained_and_full_say_the_energy_of_the_relaxed_hydrogens_on_the_way(serine: Peptide) -> None:
    conformers = shaken(serine, 1)
    fixed = rows_of(scorer_of(serine), conformers)[0]
    for relax in ("restrained", "full"):
        row = rows_of(scorer_of(serine, relax=relax), conformers)[0]
        assert row["energy_hydrogens_kj_mol"] == fixed["energy_kj_mol"]
        assert row["energy_placed_kj_mol"] > row["energy_hydrogens_kj_mol"] > row["energy_kj_mol"]
        assert row["steps"] > fixed["steps"] > 0
    assert np.isnan(rows_of(scorer_of(serine, relax="none"), conformers)[0]["energy_hydrogens_kj_mol"])


def test_bad_conformers_are_rows_with_reasons_and_the_others_are_scored(serine: Peptide) -> None:
    conformers = shaken(serine, 6)
    conformers[1, 3, 0] = np.nan
    conformers[2, 4, 2] = np.inf
    conformers[3, 5] = conformers[3, 1]  # two atoms at one place
    conformers[4] *= np.array([1.0, 1.0, -1.0])  # D
    scorer = scorer_of(serine)
    rows = rows_of(scorer, conformers)
    assert [row["status"] for row in rows] == ["ok", "nan_input", "nan_input", "clash", "broken_chirality", "ok"]
    assert all(row["status"] == "ok" or row["status"] in FAILURES for row in rows)
    for row in rows:
        assert set(row) == set(ENERGY_COLUMNS)
        assert np.isfinite(row["energy_kj_mol"]) == (row["status"] == "ok")
    alone = rows_of(scorer_of(serine), conformers[5:])[0]
    assert rows[5]["energy_kj_mol"] == alone["energy_kj_mol"]  # to the last bit: no memory of what came before


def test_a_conformer_that_does_not_converge_says_so(serine: Peptide) -> None:
    scorer = scorer_of(serine, max_iterations=1, tolerance_kj_mol_nm=1e-3, polar_hydrogen_starts=1)
    row = rows_of(scorer, shaken(serine, 1))[0]
    assert row["status"] == "not_converged"
    assert np.isnan(row["energy_kj_mol"])


def test_angstrom_given_as_nm_is_named(serine: Peptide) -> None:
    conformers = shaken(serine, 2)
    check_units(heavy(serine), conformers)
    with pytest.raises(InputError, match=r"wrong units.*Å where nm belongs"):
        check_units(heavy(serine), conformers * 10)
    with pytest.raises(InputError, match=r"wrong units.*too small"):
        check_units(heavy(serine), conformers / 10)


def test_clouds_of_an_untrained_model_are_bad_conformers_and_no_slip_of_units(serine: Peptide) -> None:
    molecule, structure_nm = heavy(serine), serine.positions_nm[serine.heavy]
    clouds = 0.6 * np.random.default_rng(0).standard_normal((8, molecule.n_atoms, 3)).astype(np.float32)
    scorer = open_scorer(Ensemble(molecule, clouds), FORCEFIELD, ScoreSettings(), structure_nm=structure_nm)
    rows = rows_of(scorer, clouds)
    assert all(row["status"] in FAILURES or row["energy_kj_mol"] > 1e5 for row in rows)


def test_clashes_are_pairs_three_bonds_apart_nearer_than_their_radii_allow() -> None:
    chain = Molecule(
        name="chain",
        atom_names=("A", "B", "C", "D", "E"),
        elements=("C", "C", "C", "C", "O"),
        residue_names=("X",),
        residue_of_atom=np.zeros(5, dtype=np.int64),
        bonds=np.array([[0, 1], [1, 2], [2, 3], [3, 4]]),
    )
    nearest_nm = nearest_allowed_nm(chain)
    assert np.argwhere(np.triu(nearest_nm)).tolist() == [[0, 3], [0, 4], [1, 4]]
    assert nearest_nm[[0, 0, 1], [3, 4, 4]] == pytest.approx([0.6 * 0.34, 0.6 * 0.322, 0.6 * 0.322])


def test_residues_and_atoms_that_are_not_known_are_named(serine: Peptide) -> None:
    molecule = heavy(serine)
    with pytest.raises(InputError, match="'SEP' is not a residue"):
        check_residues(replace(molecule, residue_names=("ACE", "SEP", "NME")))
    odd = tuple("XG" if name == "OG" else name for name in molecule.atom_names)
    with pytest.raises(InputError, match="SER has unknown atoms: XG"):
        check_residues(replace(molecule, atom_names=odd))


def test_an_all_atom_input_keeps_its_hydrogens_and_half_of_them_are_replaced_by_all(serine: Peptide) -> None:
    template = make_template(serine.molecule, serine.positions_nm, FORCEFIELD)
    assert template.all_atom
    assert template.record["hydrogens"] == "kept: the input has all of them"
    assert np.array_equal(template.place(serine.positions_nm[None])[0], serine.positions_nm)
    some = np.array([i for i in range(serine.molecule.n_atoms) if serine.molecule.atom_names[i] != "HG"])
    mended = make_template(select_atoms(serine.molecule, some), serine.positions_nm[some], FORCEFIELD)
    assert not mended.all_atom
    assert sorted(mended.molecule.atom_names) == sorted(serine.molecule.atom_names)
    assert "ff14SB has no parameters" in mended.record["hydrogens"]
    placed = mended.place(serine.positions_nm[None, some])[0]
    assert np.array_equal(placed[mended.input_atoms], serine.positions_nm[serine.heavy])


def test_histidine_is_neutral_with_its_hydrogen_on_ne2_and_the_record_says_so() -> None:
    peptide = build_peptide("his", "ACE-HIS-CYS-NME", FORCEFIELD)
    template = make_template(heavy(peptide), peptide.positions_nm[peptide.heavy], FORCEFIELD)
    assert protonation(template.molecule) == {"HIS 2": "HIE", "CYS 3": "CYS"}


def test_the_template_is_the_same_each_time(serine: Peptide) -> None:
    first, second = (scorer_of(serine).template for _ in range(2))
    assert np.array_equal(first.placer.local_nm, second.placer.local_nm)


def test_lbfgs_solves_a_quadratic_and_an_exact_metric_solves_it_at_once() -> None:
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    stiffness = basis @ np.diag(np.geomspace(1.0, 100.0, 12)) @ basis.T
    centre = rng.normal(size=12)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = stiffness @ (x - centre)
        return float(0.5 * (x - centre) @ gradient), gradient

    def solved(metric: np.ndarray) -> Any:
        return minimise_lbfgs(
            function, np.zeros(12), precondition=lambda v: metric @ v, tolerance=1e-5, max_iterations=200, max_step=9.0
        )

    plain, exact = solved(np.eye(12) * 0.01), solved(np.linalg.inv(stiffness))
    assert plain.converged
    assert exact.converged
    assert plain.x == pytest.approx(centre, abs=1e-4)
    assert exact.evaluations == 2
    assert exact.evaluations < plain.evaluations


def test_lbfgs_says_when_it_did_not_converge_and_takes_no_longer_step_than_allowed() -> None:
    seen: list[float] = []

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        seen.append(float(x[0]))
        return float(-x[0]), np.array([-1.0])  # no minimum at all

    found = minimise_lbfgs(
        function, np.zeros(1), precondition=lambda v: 100 * v, tolerance=1e-3, max_iterations=5, max_step=0.5
    )
    assert not found.converged
    assert np.diff(seen) == pytest.approx(0.5)


def test_the_metric_is_the_inverse_of_the_bonded_hessian_of_a_lone_hydrogen(serine: Peptide) -> None:
    """HA's own block, by brute force in the laboratory frame of another conformer."""
    scorer = scorer_of(serine)
    template, system = scorer.template, scorer.relaxer.system
    metric = HydrogenMetric(template, system)
    positions_nm = template.positions_nm @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    if np.linalg.det(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]) < 0:
        positions_nm = positions_nm * -1  # a proper turn
    atom = template.molecule.atom_index(1, "HA")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    hessian = np.zeros((3, 3))
    for k in range(3):
        for sign in (1, -1):
            displaced = positions_nm.copy()
            displaced[atom, k] += sign * 1e-4
            context.setPositions(displaced)
            forces = context.getState(forces=True, groups={1, 2, 3}).getForces(asNumpy=True)._value
            hessian[:, k] -= sign * np.asarray(forces)[atom] / 2e-4
    place = int(np.flatnonzero(template.placer.hydrogens == atom)[0])
    probe = np.zeros((len(template.placer.hydrogens), 3))
    force = np.array([0.3, -0.5, 1.1])
    probe[place] = force
    answer = metric.at(positions_nm)(probe.ravel()).reshape(-1, 3)
    assert answer[place] == pytest.approx(np.linalg.solve(hessian, force), rel=1e-3)
    assert np.count_nonzero(np.abs(answer).sum(axis=1)) == 1


def test_the_hydrogen_entropy_of_springs_is_known_and_a_free_turn_is_bounded() -> None:
    kt = thermal_energy_kj_mol(300.0)
    stiffness = np.array([[3e5, 2e4, 5e3], [4e4, 1e5, 0.0]])  # kJ/mol/nm², the last one free
    rest = np.zeros((3, 3))

    def forces(positions_nm: np.ndarray) -> np.ndarray:
        pull = np.zeros((3, 3))
        pull[[0, 2]] = -stiffness * positions_nm[[0, 2]]
        return pull

    bounded = np.maximum(stiffness, kt / 0.1**2)
    expected = 0.5 * kt * np.log(1e-4 * bounded / kt).sum()
    assert hydrogen_entropy_kj_mol(forces, rest, np.array([0, 2]), 300.0) == pytest.approx(expected, rel=1e-9)


def test_the_entropy_is_part_of_the_energy_and_comes_from_its_second_derivatives(serine: Peptide) -> None:
    conformers = shaken(serine, 2)
    without, with_it = (rows_of(scorer_of(serine, hydrogen_entropy=kind), conformers) for kind in ("none", "harmonic"))
    scorer = scorer_of(serine)
    for plain, full, positions_nm in zip(without, with_it, scorer.template.place(conformers), strict=True):
        assert plain["hydrogen_entropy_kj_mol"] == 0
        assert full["energy_kj_mol"] == pytest.approx(plain["energy_kj_mol"] + full["hydrogen_entropy_kj_mol"])
        # Two of the Hessian's elements by second differences of the energy alone.
        relaxed_nm = scorer.relaxer.relax(positions_nm).positions_nm
        hydrogens = scorer.template.placer.hydrogens
        hessian = hydrogen_hessian(scorer.relaxer.forces_kj_mol_nm, relaxed_nm, hydrogens)
        for i, j in ((0, 0), (3, 5)):
            energies = []
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                moved = relaxed_nm.copy()
                moved[hydrogens[i // 3], i % 3] += a * 1e-4
                moved[hydrogens[j // 3], j % 3] += b * 1e-4
                energies.append(scorer.relaxer.energy_kj_mol(moved))
            second = (energies[0] - energies[1] - energies[2] + energies[3]) / 4e-8
            assert hessian[i, j] == pytest.approx(second, rel=1e-3, abs=5.0)
    assert with_it[0]["hydrogen_entropy_kj_mol"] != pytest.approx(with_it[1]["hydrogen_entropy_kj_mol"], abs=0.01)


def test_the_entropy_goes_with_relaxed_hydrogens_only() -> None:
    with pytest.raises(ValueError, match="goes with 'relax: hydrogens'"):
        ScoreSettings(relax="full", hydrogen_entropy="harmonic")
