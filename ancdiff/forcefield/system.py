"""An OpenMM System by name: protein force field, implicit solvent, and one force group for each part of the energy."""

import warnings
from functools import cache
from typing import Any

from ancdiff.config import ForcefieldSettings
from ancdiff.errors import ConfigError, InputError

PROTEIN_FILES = {
    "ff14SB": "amber14/protein.ff14SB.xml",
    "ff19SB": "amber19/protein.ff19SB.xml",
    "amber99sb-ildn": "amber99sbildn.xml",
    "charmm36": "charmm36.xml",
}
SOLVENT_FILES = {"obc2": "implicit/obc2.xml", "gbn2": "implicit/gbn2.xml"}

# Force group of each part of the energy; an OpenMM force that is not listed here is an error, not a silent gap.
GROUPS = {"bond": 1, "angle": 2, "torsion": 3, "nonbonded": 4, "solvation": 5, "electronic": 10}
RESTRAINT_GROUP = 6
_PART_OF_FORCE = {
    "HarmonicBondForce": "bond",
    "HarmonicAngleForce": "angle",
    "CustomAngleForce": "angle",
    "PeriodicTorsionForce": "torsion",
    "RBTorsionForce": "torsion",
    "CustomTorsionForce": "torsion",
    "CMAPTorsionForce": "torsion",
    "NonbondedForce": "nonbonded",
    "CustomNonbondedForce": "nonbonded",
    "CustomBondForce": "nonbonded",
    "GBSAOBCForce": "solvation",
    "CustomGBForce": "solvation",
}
_CAPS_AFTER = ("NME", "NH2")
_OBC_OFFSET_NM = 0.009
_SOLVENT_DIELECTRIC = 78.5


def forcefield_files(settings: ForcefieldSettings) -> tuple[str, ...]:
    """OpenMM force-field files of the settings: the user's own, or those of the named protein and solvent."""
    if settings.xml:
        return settings.xml
    solvent = () if settings.solvent == "vacuum" else (SOLVENT_FILES[settings.solvent],)
    return (PROTEIN_FILES[settings.protein], *solvent)


@cache
def load_forcefield(*files: str) -> Any:
    """The OpenMM ForceField of XML files, parsed once per process.

    Raises:
        ConfigError: a file is neither there nor one of OpenMM's own, or is no force field.
    """
    from openmm import app

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # charmm36.xml announces its unused patches
        try:
            return app.ForceField(*files)
        except Exception as error:  # a missing file is a ValueError, a broken one whatever its parser says
            raise ConfigError(
                f"this force field cannot be read: {error}",
                where=f"forcefield.xml: {', '.join(files)}",
                fix="give OpenMM force-field XML files: paths from the working folder, or names of OpenMM's own",
            ) from error


def create_system(
    topology: Any,
    settings: ForcefieldSettings,
    *,
    constrain_hydrogens: bool = False,
    hydrogen_mass_amu: float | None = None,
    native_solvent: bool = True,
) -> Any:
    """A System, its forces in the groups of `GROUPS`; without a cutoff unless ``forcefield.cutoff_nm`` sets one.

    OBC2 becomes a native GBSAOBCForce with the radii and scales of ``implicit/obc2.xml`` (same energy, several times
    faster); ``native_solvent=False`` keeps the CustomGBForce of the XML. With a cutoff the Coulomb energy is shifted
    (reaction field of dielectric 1), as OpenMM's implicit-solvent files have it.

    Raises:
        ConfigError: the user's own force-field files cannot be read.
        InputError: the force field has no parameters for a residue of the topology.
    """
    from openmm import app, unit

    files = forcefield_files(settings)
    options: dict[str, Any] = {"nonbondedMethod": app.NoCutoff}
    if settings.cutoff_nm is not None:
        cutoff = settings.cutoff_nm * vars(unit)["nanometer"]
        options = {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": cutoff}
    if hydrogen_mass_amu is not None:
        options["hydrogenMass"] = hydrogen_mass_amu
    try:
        system = load_forcefield(*files).createSystem(
            with_merged_caps(topology) if "charmm36" in files[0] else topology,
            constraints=app.HBonds if constrain_hydrogens else None,
            rigidWater=False,
            removeCMMotion=False,
            **options,
        )
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{_name(settings)} has no parameters for this molecule: {error}",
            where="forcefield.xml" if settings.xml else "forcefield.protein",
            fix="use the standard amino acids, with all their heavy atoms, or another force field",
        ) from error
    if SOLVENT_FILES["obc2"] in files and native_solvent:
        _make_obc2_native(system, settings.cutoff_nm)
    for force in system.getForces():
        force.setForceGroup(GROUPS[_part(force)])
        if type(force).__name__ == "NonbondedForce":
            force.setReactionFieldDielectric(1.0)
    return system


def _name(settings: ForcefieldSettings) -> str:
    return " + ".join(settings.xml) or settings.protein


def with_merged_caps(topology: Any) -> Any:
    """The topology with its caps as parts of the residues that they cap, as CHARMM has them; same atom order."""
    from openmm import app

    merged = app.Topology()
    atoms = []
    for chain in topology.chains():
        new_chain, residue, before = merged.addChain(), None, None
        for old in chain.residues():
            if residue is None or (before != "ACE" and old.name not in _CAPS_AFTER):
                residue = merged.addResidue(old.name, new_chain)
            elif before == "ACE":
                residue.name = old.name
            before = old.name
            atoms += [merged.addAtom(atom.name, atom.element, residue) for atom in old.atoms()]
    for bond in topology.bonds():
        merged.addBond(atoms[bond[0].index], atoms[bond[1].index])
    return merged


def _part(force: Any) -> str:
    part = _PART_OF_FORCE.get(type(force).__name__)
    if part is None:
        raise InputError(
            f"the part of the energy that {type(force).__name__} belongs to is not known",
            where="forcefield",
            fix="use one of the force fields that the configuration lists",
        )
    return part


def _make_obc2_native(system: Any, cutoff_nm: float | None) -> None:
    """Replace the CustomGBForce of ``implicit/obc2.xml`` by OpenMM's native GBSAOBCForce.

    The XML's particles carry (charge, radius − 0.009 nm, scale × (radius − 0.009 nm)).
    """
    import openmm

    index = next(i for i, force in enumerate(system.getForces()) if isinstance(force, openmm.CustomGBForce))
    custom = system.getForce(index)
    native = openmm.GBSAOBCForce()
    native.setSolventDielectric(_SOLVENT_DIELECTRIC)
    native.setSoluteDielectric(1.0)
    native.setNonbondedMethod(openmm.GBSAOBCForce.NoCutoff)
    if cutoff_nm is not None:
        native.setNonbondedMethod(openmm.GBSAOBCForce.CutoffNonPeriodic)
        native.setCutoffDistance(cutoff_nm)
    for i in range(custom.getNumParticles()):
        charge, offset_radius, scaled_radius = custom.getParticleParameters(i)
        native.addParticle(charge, offset_radius + _OBC_OFFSET_NM, scaled_radius / offset_radius)
    system.removeForce(index)
    system.addForce(native)
