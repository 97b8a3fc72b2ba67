"""A capped peptide from its sequence alone: RDKit embeds the heavy atoms, OpenMM adds the hydrogens and relaxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.basins import BASIN_CENTRES_DEG, dihedrals
from ancdiff.config import ForcefieldSettings
from ancdiff.errors import ConfigError, StageError
from ancdiff.forcefield.hydrogens import add_hydrogens, rotate
from ancdiff.forcefield.platforms import platform_by_name
from ancdiff.forcefield.residues import CHI_TORSIONS, RESIDUES
from ancdiff.forcefield.system import create_system
from ancdiff.forcefield.topology import molecule_of_topology, neighbour_lists
from ancdiff.molecules import Molecule, signed_volumes
from ancdiff.sequences import check_sequence

_PDB_ORDER = {name: i for i, name in enumerate(("N", "CA", "C", "O"))}
_STAGGERED_DEG = (-60.0, 60.0, 180.0)
_TORSION_RESTRAINT_KJ_MOL_RAD2 = 500.0
_EMBEDDING_SEED = 7


@dataclass(frozen=True, eq=False)
class Peptide:
    """An all-atom molecule with its OpenMM topology; ``heavy`` are its heavy atoms in that order."""

    molecule: Molecule
    topology: Any
    positions_nm: Float[np.ndarray, "atoms 3"]
    heavy: Int[np.ndarray, " heavy"]


def build_peptide(name: str, sequence: str, settings: ForcefieldSettings) -> Peptide:
    """Build an all-atom L peptide; draws no random numbers (the embedding has a fixed seed).

    Raises:
        ConfigError: histidine's state is to follow hydrogen bonds, which a sequence does not have.
        ValueError: the sequence is impossible (see `ancdiff.sequences.check_sequence`).
        StageError: no structure with the right handedness was found.
    """
    topology, heavy_nm = _heavy_atoms(sequence)
    if "HIS" in sequence.split("-") and settings.histidine == "hydrogen_bonds":
        raise ConfigError(
            "a peptide built from its sequence has no hydrogen bonds to decide its histidine by",
            where=f"forcefield.histidine, system '{name}', {sequence}",
            fix="set forcefield.histidine: HIE (or HID), which simulation and scoring then share",
        )
    topology, positions_nm = add_hydrogens(topology, heavy_nm, settings)
    molecule = molecule_of_topology(topology, name)
    heavy = np.flatnonzero(np.array(molecule.elements) != "H")
    relaxed_nm = minimise(create_system(topology, settings), positions_nm)
    if not np.all(signed_volumes(relaxed_nm[None], molecule.stereocentres) > 0):
        raise StageError(
            "the structure built from the sequence has a D amino acid",
            where=f"system '{name}', {sequence}",
            fix="give the system a 'topology' and trajectories of your own instead of a sequence",
        )
    return Peptide(molecule, topology, relaxed_nm, heavy)


def start_structure(
    peptide: Peptide, settings: ForcefieldSettings, basins: Sequence[str], rng: np.random.Generator | None = None
) -> Float[np.ndarray, "atoms 3"]:
    """The peptide with each residue's (φ, ψ) at a basin's centre, minimised while these torsions are held.

    ``basins`` has one name for each residue that has both torsions. With ``rng`` the side chains start in staggered
    positions drawn at random; without, they stay.

    Raises:
        ValueError: there is not one basin for each residue.
    """
    molecule, positions_nm = peptide.molecule, peptide.positions_nm.copy()
    residues = molecule.ramachandran_residues()
    if len(basins) != len(residues):
        raise ValueError(f"{len(residues)} residues need a basin each; got {len(basins)}")
    held: list[tuple[tuple[int, int, int, int], float]] = []
    for residue, basin in zip(residues, basins, strict=True):
        phi_psi = zip(("phi", "psi"), BASIN_CENTRES_DEG[basin], strict=True)
        held += [(t, np.radians(angle)) for kind, angle in phi_psi if (t := molecule.torsion(residue, kind))]
        if rng is not None:
            for names in CHI_TORSIONS.get(molecule.residue_names[residue], ()):
                chi = tuple(molecule.atom_index(residue, atom) for atom in names)
                held.append((chi, np.radians(_STAGGERED_DEG[rng.integers(3)])))  # type: ignore[arg-type]
    for torsion, angle in held:
        positions_nm = set_torsion(molecule, positions_nm, torsion, angle)
    return minimise(_hold_torsions(create_system(peptide.topology, settings), held), positions_nm)


def set_torsion(
    molecule: Molecule, positions_nm: Float[np.ndarray, "atoms 3"], torsion: tuple[int, int, int, int], angle_rad: float
) -> Float[np.ndarray, "atoms 3"]:
    """Turn the atoms beyond the middle bond until the torsion has this angle; a bond in a ring stays as it is."""
    _, b, c, _ = torsion
    moving = _beyond(molecule, b, c)
    if b in moving:
        return positions_nm
    turn = angle_rad - dihedrals(positions_nm[None], np.array([torsion]))[0, 0]
    axis = positions_nm[c] - positions_nm[b]
    turned = positions_nm.copy()
    rows = sorted(moving)
    turned[rows] = rotate(positions_nm[rows] - positions_nm[c], axis / np.linalg.norm(axis), turn) + positions_nm[c]
    return turned


def minimise(
    system: Any, positions_nm: Float[np.ndarray, "atoms 3"], *, tolerance_kj_mol_nm: float = 10.0
) -> Float[np.ndarray, "atoms 3"]:
    """Positions at the nearest energy minimum, on the Reference platform."""
    import openmm

    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform_by_name("Reference"))
    context.setPositions(positions_nm)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance_kj_mol_nm)  # type: ignore[arg-type]  # the stub says int
    return np.array(context.getState(positions=True).getPositions(asNumpy=True)._value, dtype=np.float64)


def _heavy_atoms(sequence: str) -> tuple[Any, Float[np.ndarray, "atoms 3"]]:
    """OpenMM topology of the heavy atoms in PDB order, and embedded positions."""
    from openmm import app
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    names = check_sequence(sequence)
    # Embedding with hydrogens keeps the chirality and the geometry sane; only heavy atoms are taken.
    graph = Chem.AddHs(Chem.MolFromSmiles("".join(RESIDUES[name].smiles for name in names)))
    if rdDistGeom.EmbedMolecule(graph, randomSeed=_EMBEDDING_SEED) != 0:
        raise StageError("no coordinates could be embedded", where=sequence, fix="try a shorter sequence")
    embedded_nm = graph.GetConformer().GetPositions() / 10.0

    topology = app.Topology()
    chain = topology.addChain()
    rows: list[int] = []
    atom_of_row: dict[int, Any] = {}
    first = 0
    for name in names:
        residue = topology.addResidue(name, chain)
        row_of = {atom: first + i for i, atom in enumerate(RESIDUES[name].names)}
        for atom in sorted(row_of, key=lambda a: (_PDB_ORDER.get(a, len(_PDB_ORDER)), row_of[a])):
            element = app.Element.getBySymbol(graph.GetAtomWithIdx(row_of[atom]).GetSymbol())
            atom_of_row[row_of[atom]] = topology.addAtom(atom, element, residue)
            rows.append(row_of[atom])
        first += len(row_of)
    for bond in graph.GetBonds():
        ends = (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        if max(ends) < first:  # RDKit appends the hydrogens
            topology.addBond(atom_of_row[ends[0]], atom_of_row[ends[1]])
    return topology, embedded_nm[rows]


def _hold_torsions(system: Any, held: Sequence[tuple[tuple[int, int, int, int], float]]) -> Any:
    import openmm

    restraint = openmm.CustomTorsionForce("0.5*k*d^2; d=min(e, 6.283185307179586-e); e=abs(theta-theta0)")
    restraint.addGlobalParameter("k", _TORSION_RESTRAINT_KJ_MOL_RAD2)
    restraint.addPerTorsionParameter("theta0")
    for torsion, angle in held:
        restraint.addTorsion(*torsion, [(angle + np.pi) % (2 * np.pi) - np.pi])
    system.addForce(restraint)
    return system


def _beyond(molecule: Molecule, b: int, c: int) -> set[int]:
    """Atoms reached from c without crossing the bond b–c."""
    neighbours = neighbour_lists(molecule)
    seen, pending = {c}, [n for n in neighbours[c] if n != b]
    while pending:
        atom = pending.pop()
        if atom not in seen:
            seen.add(atom)
            pending += neighbours[atom]
    return seen
