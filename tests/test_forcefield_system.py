"""Systems by name: the same energies and forces as a plain OpenMM script, in parts that sum to the whole."""

from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.errors import ConfigError, InputError
from ancdiff.forcefield import platforms
from ancdiff.forcefield.build import Peptide, build_peptide
from ancdiff.forcefield.energies import Scorer
from ancdiff.forcefield.system import GROUPS, create_system, with_merged_caps
from ancdiff.forcefield.topology import molecule_of_topology, select_atoms, topology_of_molecule

FILES = {
    "ff14SB": "amber14/protein.ff14SB.xml",
    "ff19SB": "amber19/protein.ff19SB.xml",
    "amber99sb-ildn": "amber99sbildn.xml",
    "charmm36": "charmm36.xml",
}
# A charge of each sign, an aromatic ring, a β-branch and sulphur: every kind of radius that OBC2 tells apart.
SEQUENCE = "ACE-ASP-ARG-TYR-VAL-CYS-NME"


@pytest.fixture(scope="module")
def peptide() -> Peptide:
    built = build_peptide("five", SEQUENCE, ForcefieldSettings())
    moved = built.positions_nm + np.random.default_rng(3).normal(scale=0.005, size=built.positions_nm.shape)
    return Peptide(built.molecule, built.topology, moved, built.heavy)


def energy_and_forces(
    system: openmm.System, positions_nm: np.ndarray, groups: set[int] | int = -1
) -> tuple[float, np.ndarray]:
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions_nm)
    state = context.getState(energy=True, forces=True, groups=groups)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole), forces


def plain_system(topology: app.Topology, protein: str, solvent: str) -> openmm.System:
    """What a person would write: the XML files, no cutoff. CHARMM's caps are patches of their residue."""
    files = [FILES[protein], *([] if solvent == "vacuum" else [f"implicit/{solvent}.xml"])]
    return app.ForceField(*files).createSystem(
        with_merged_caps(topology) if protein == "charmm36" else topology,
        nonbondedMethod=app.NoCutoff,
        constraints=None,
        removeCMMotion=False,
    )


@pytest.mark.parametrize(
    ("protein", "solvent"),
    [
        ("ff14SB", "obc2"),
        ("ff14SB", "gbn2"),
        ("ff14SB", "vacuum"),
        ("ff19SB", "obc2"),
        ("ff19SB", "gbn2"),
        ("amber99sb-ildn", "obc2"),
        pytest.param("charmm36", "gbn2", marks=pytest.mark.slow),
    ],
)
def test_energies_and_forces_are_those_of_a_plain_script(peptide: Peptide, protein: str, solvent: str) -> None:
    settings = ForcefieldSettings(protein=protein, solvent=solvent)  # type: ignore[arg-type]
    energy, forces = energy_and_forces(create_system(peptide.topology, settings), peptide.positions_nm)
    plain_energy, plain_forces = energy_and_forces(
        plain_system(peptide.topology, protein, solvent), peptide.positions_nm
    )
    assert energy == pytest.approx(plain_energy, rel=1e-5)
    # Forces of 1e3–1e4 kJ/mol/nm; the native and the custom solvent differ by the digits of Coulomb's constant.
    np.testing.assert_allclose(forces, plain_forces, atol=1e-5 * np.abs(plain_forces).max())


@pytest.mark.parametrize("protein", ["ff14SB", "ff19SB", "amber99sb-ildn"])
def test_native_obc2_is_the_xmls_with_every_force_field_and_with_a_cutoff(peptide: Peptide, protein: str) -> None:
    for cutoff_nm in (None, 0.8):
        settings = ForcefieldSettings(protein=protein, cutoff_nm=cutoff_nm)  # type: ignore[arg-type]
        (native, forces), (custom, custom_forces) = (
            energy_and_forces(
                create_system(peptide.topology, settings, native_solvent=is_native), peptide.positions_nm, {5}
            )
            for is_native in (True, False)
        )
        assert native == pytest.approx(custom, rel=1e-5)
        np.testing.assert_allclose(forces, custom_forces, atol=1e-5 * np.abs(custom_forces).max())


@pytest.mark.parametrize("solvent", ["obc2", "gbn2"])
def test_a_cutoff_is_that_of_a_plain_script_and_changes_the_energy(peptide: Peptide, solvent: str) -> None:
    settings = ForcefieldSettings(solvent=solvent, cutoff_nm=0.9)  # type: ignore[arg-type]
    energy, _ = energy_and_forces(create_system(peptide.topology, settings), peptide.positions_nm)
    plain = app.ForceField(FILES["ff14SB"], f"implicit/{solvent}.xml").createSystem(
        peptide.topology,
        nonbondedMethod=app.CutoffNonPeriodic,
        nonbondedCutoff=0.9 * unit.nanometer,
        removeCMMotion=False,
    )
    assert energy == pytest.approx(energy_and_forces(plain, peptide.positions_nm)[0], rel=1e-5)
    uncut = create_system(peptide.topology, ForcefieldSettings(solvent=solvent))  # type: ignore[arg-type]
    assert abs(energy - energy_and_forces(uncut, peptide.positions_nm)[0]) > 1.0


def test_own_force_field_files_are_taken_as_a_plain_script_takes_them(peptide: Peptide, tmp_path: Path) -> None:
    own = tmp_path / "stiffer.xml"
    source = Path(app.__file__).parent / "data" / "amber99sbildn.xml"
    own.write_text(source.read_text().replace('k="284512.0"', 'k="300000.0"'))  # bonds of one kind
    files = (str(own), "amber99_obc.xml")
    energy, forces = energy_and_forces(
        create_system(peptide.topology, ForcefieldSettings(xml=files)), peptide.positions_nm
    )
    plain = app.ForceField(*files).createSystem(peptide.topology, nonbondedMethod=app.NoCutoff, removeCMMotion=False)
    plain_energy, plain_forces = energy_and_forces(plain, peptide.positions_nm)
    assert energy == pytest.approx(plain_energy, rel=1e-6)
    np.testing.assert_allclose(forces, plain_forces, atol=1e-5 * np.abs(plain_forces).max())
    usual = create_system(peptide.topology, ForcefieldSettings(xml=("amber99sbildn.xml", "amber99_obc.xml")))
    assert abs(energy - energy_and_forces(usual, peptide.positions_nm)[0]) > 0.01
    # OpenMM's own files by name are the named force field, native solvent and all.
    named, by_file = (
        create_system(peptide.topology, settings)
        for settings in (ForcefieldSettings(), ForcefieldSettings(xml=(FILES["ff14SB"], "implicit/obc2.xml")))
    )
    assert openmm.XmlSerializer.serialize(named) == openmm.XmlSerializer.serialize(by_file)


def test_own_force_field_files_that_do_not_do_are_named(peptide: Peptide, tmp_path: Path) -> None:
    broken = tmp_path / "broken.xml"
    broken.write_text("<ForceField><AtomTypes>")
    for name in (str(broken), "not/there.xml"):
        with pytest.raises(ConfigError, match="this force field cannot be read"):
            create_system(peptide.topology, ForcefieldSettings(xml=(name,)))
    with pytest.raises(InputError, match=r"tip3p\.xml has no parameters for this molecule"):
        create_system(peptide.topology, ForcefieldSettings(xml=("tip3p.xml",)))


def test_a_wrong_radius_would_be_seen(peptide: Peptide) -> None:
    system = create_system(peptide.topology, ForcefieldSettings())
    right, _ = energy_and_forces(system, peptide.positions_nm)
    force = next(f for f in system.getForces() if isinstance(f, openmm.GBSAOBCForce))
    charge, radius, scale = force.getParticleParameters(5)
    force.setParticleParameters(5, charge, radius * 1.02, scale)
    wrong, _ = energy_and_forces(system, peptide.positions_nm)
    assert abs(wrong - right) > 1e-5 * abs(right)


def test_obc2_is_native_unless_asked_otherwise(peptide: Peptide) -> None:
    kinds = {type(f) for f in create_system(peptide.topology, ForcefieldSettings()).getForces()}
    assert openmm.GBSAOBCForce in kinds
    assert openmm.CustomGBForce not in kinds
    system = create_system(peptide.topology, ForcefieldSettings(), native_solvent=False)
    assert openmm.CustomGBForce in {type(f) for f in system.getForces()}


@pytest.mark.parametrize(("protein", "solvent"), [("ff14SB", "obc2"), ("amber99sb-ildn", "gbn2"), ("ff19SB", "vacuum")])
def test_the_parts_sum_to_the_whole(peptide: Peptide, protein: str, solvent: str) -> None:
    settings = ForcefieldSettings(protein=protein, solvent=solvent)  # type: ignore[arg-type]
    system = create_system(peptide.topology, settings)
    whole, _ = energy_and_forces(system, peptide.positions_nm)
    parts = {name: energy_and_forces(system, peptide.positions_nm, groups={group})[0] for name, group in GROUPS.items()}
    assert sum(parts.values()) == pytest.approx(whole, abs=1e-6)
    assert all(parts[name] > 0 for name in ("bond", "angle"))
    assert (parts["solvation"] < 0) == (solvent != "vacuum")


def test_dynamics_options_leave_the_total_mass(peptide: Peptide) -> None:
    plain = create_system(peptide.topology, ForcefieldSettings())
    heavy_hydrogens = create_system(
        peptide.topology, ForcefieldSettings(), constrain_hydrogens=True, hydrogen_mass_amu=3.0
    )
    atoms = range(plain.getNumParticles())
    masses = np.array([heavy_hydrogens.getParticleMass(i)._value for i in atoms])
    assert masses.sum() == pytest.approx(sum(plain.getParticleMass(i)._value for i in atoms))
    hydrogens = np.array(peptide.molecule.elements) == "H"
    assert masses[hydrogens] == pytest.approx(3.0)
    assert heavy_hydrogens.getNumConstraints() == hydrogens.sum()
    assert plain.getNumConstraints() == 0


def test_a_residue_without_parameters_is_an_input_error() -> None:
    built = build_peptide("one", "ACE-SER-NME", ForcefieldSettings())
    heavy_only = topology_of_molecule(select_atoms(built.molecule, built.heavy))
    with pytest.raises(InputError, match="ff14SB has no parameters for this molecule"):
        create_system(heavy_only, ForcefieldSettings())


def test_molecules_and_topologies_go_there_and_back(peptide: Peptide) -> None:
    back = molecule_of_topology(topology_of_molecule(peptide.molecule), "five")
    assert back.atom_names == peptide.molecule.atom_names
    assert back.residue_names == peptide.molecule.residue_names
    np.testing.assert_array_equal(back.bonds, peptide.molecule.bonds)
    np.testing.assert_array_equal(back.stereocentres, peptide.molecule.stereocentres)


def test_a_new_chain_starts_where_residues_are_not_bonded() -> None:
    two = app.Topology()
    for _ in range(2):
        for residue in build_peptide("one", "ACE-GLY-NME", ForcefieldSettings()).topology.chains():
            chain = two.addChain()
            atoms = {}
            for old in residue.residues():
                new = two.addResidue(old.name, chain)
                atoms |= {atom: two.addAtom(atom.name, atom.element, new) for atom in old.atoms()}
            for bond in next(iter(atoms)).residue.chain.topology.bonds():
                two.addBond(atoms[bond[0]], atoms[bond[1]])
    again = topology_of_molecule(molecule_of_topology(two, "two"))
    assert [len(list(chain.residues())) for chain in again.chains()] == [3, 3]


def test_auto_takes_the_platform_by_size_and_never_opencl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "cuda_works", lambda: False)
    assert platforms.auto_platform(22, custom_solvent=False) == "Reference"
    assert platforms.auto_platform(500, custom_solvent=False) == "CPU"
    assert platforms.auto_platform(22, custom_solvent=True) == "CPU"
    monkeypatch.setattr(platforms, "cuda_works", lambda: True)
    assert platforms.auto_platform(22, custom_solvent=False) == "Reference"
    assert platforms.auto_platform(500, custom_solvent=False) == "CUDA"


def test_every_context_names_its_platform_so_that_a_broken_opencl_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenMM takes OPENMM_DEFAULT_PLATFORM where none is named, and OpenCL where that is not set either."""
    monkeypatch.setenv("OPENMM_DEFAULT_PLATFORM", "Broken")
    system = openmm.System()
    system.addParticle(1.0)
    with pytest.raises(openmm.OpenMMException, match="Broken"):
        openmm.Context(system, openmm.VerletIntegrator(0.001))
    built = build_peptide("one", "ACE-LYS-HIS-NME", ForcefieldSettings())  # hydrogens added, minimised
    settings = ForcefieldSettings(histidine="hydrogen_bonds", cutoff_nm=1.5)
    given = np.array([i for i in built.heavy if built.molecule.atom_names[i] != "NZ"])  # PDBFixer puts it back
    molecule, positions_nm = select_atoms(built.molecule, given), built.positions_nm[given]
    for relax in ("hydrogens", "restrained", "full"):
        for platform in ("Reference", "CPU"):  # CPU: with the stand-in
            chosen = settings.model_copy(update={"platform": platform})
            scorer = Scorer(molecule, positions_nm, chosen, ScoreSettings(relax=relax))  # type: ignore[arg-type]
            (row,) = scorer.rows(np.array([0]), positions_nm[None])
            assert row["status"] == "ok"
    assert np.isfinite(scorer.cutoff_errors_kj_mol(positions_nm[None])).all()
    assert isinstance(platforms.cuda_works(), bool)


def test_a_platform_by_name_is_that_one_or_an_error(peptide: Peptide) -> None:
    system = create_system(peptide.topology, ForcefieldSettings())
    assert platforms.choose_platform("CPU", system).getName() == "CPU"
    assert platforms.choose_platform("auto", system).getName() == "Reference"
    with pytest.raises(ConfigError, match="set it to auto or one of: Reference"):
        platforms.platform_by_name("Abacus")
