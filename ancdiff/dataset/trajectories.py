"""Source of systems that come with their own MD: the user's topology and trajectories, in any format mdtraj reads.

A small molecule, whose topology is an SDF file, keeps all its atoms, in the file's order. Of any other topology only
the solute's heavy atoms are kept: water, ions, ligands and hydrogens go, and every residue and atom gets its
standard name. The molecule is decided once per system and is the same for all its trajectories.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ancdiff.artifacts import dcd_frames, quiet_reader, read_ensemble
from ancdiff.chemistry import REFUSALS, is_molecule_file
from ancdiff.config import SystemSettings
from ancdiff.dataset.checks import expected_bond_lengths, length_scale
from ancdiff.dataset.frames import MdFrames
from ancdiff.dataset.residues import (
    AMINO_ACIDS,
    CAPS,
    HEAVY_ATOMS,
    STANDARD_BONDS,
    WATERS,
    canonical_atom_name,
    canonical_residue_name,
    patch_cap,
)
from ancdiff.errors import InputError
from ancdiff.molecules import Molecule, natural_stereocentres

_CHUNK_FRAMES = 500
_BACKBONE = {"N", "CA", "C"}
_NOT_HEAVY = {"H", "D", "VS", "EP"}
# A bond between residues is believed where it is, at the median, no longer than this times the expected length.
_LINK_TOLERANCE = 1.35
_SHOWN = 5


# Residue in the file's topology, and 0; -1 or 1 for a cap that stands inside it (before, after).
_Place = tuple[int, int]
# Index of an atom in the file's topology, its residue's place, its standard name.
_Kept = tuple[int, _Place, str]


class _Solute(NamedTuple):
    """Heavy atoms of the solute: their indices in the file's topology, the molecule, and what was left out."""

    atoms: Int[np.ndarray, " atoms"]
    molecule: Molecule
    notes: tuple[str, ...]


def read_trajectories(system: str, settings: SystemSettings) -> dict[str, MdFrames]:
    """Read a system's own MD: 'training', and 'reference' where there is one; each file is one replica.

    Molecules cut by a periodic box are made whole. Bonds between residues (peptide bonds, disulfides) are those that
    the coordinates show.

    Raises:
        InputError: a file is missing, unreadable or has other atoms than the topology; the topology has no solute, or
            the solute lacks heavy atoms.
    """
    assert settings.topology is not None  # guaranteed by SystemSettings
    topology_path = Path(settings.topology)
    if is_molecule_file(topology_path):
        return _read_small_molecule(system, settings, topology_path)
    topology = _load_topology(topology_path)
    solute = select_solute(topology, system, where=str(topology_path))
    sets: dict[str, MdFrames] = {}
    for md, names in (("training", settings.training), ("reference", settings.reference)):
        paths = [Path(name) for name in names]
        replicas = [_read_positions(path, topology, topology_path, solute) for path in paths]
        if replicas:
            sets[md] = MdFrames(
                molecule=solute.molecule,
                positions_nm=np.concatenate(replicas),
                replica=np.repeat(np.arange(len(replicas)), [len(r) for r in replicas]),
                frame=np.concatenate([np.arange(len(r)) for r in replicas]),
                files=(topology_path, *paths),
                notes=(*solute.notes, *_cut_files(paths, replicas)),
            )
    molecule, notes = _with_real_links(solute.molecule, [frames.positions_nm for frames in sets.values()])
    _require_bonds(molecule, where=str(topology_path))
    return {md: replace(frames, molecule=molecule, notes=frames.notes + notes) for md, frames in sets.items()}


def _read_small_molecule(system: str, settings: SystemSettings, topology: Path) -> dict[str, MdFrames]:
    """As `read_trajectories`, of an SDF or MOL file: all atoms, and bonds, charges and handedness from the file."""
    sets: dict[str, MdFrames] = {}
    for md, names in (("training", settings.training), ("reference", settings.reference)):
        paths = [Path(name) for name in names]
        replicas = [read_ensemble(path, topology=topology, name=system) for path in paths]
        if replicas:
            sets[md] = MdFrames(
                molecule=replicas[0].molecule,
                positions_nm=np.concatenate([one.positions_nm for one in replicas]),
                replica=np.repeat(np.arange(len(replicas)), [len(one) for one in replicas]),
                frame=np.concatenate([np.arange(len(one)) for one in replicas]),
                files=(topology, *paths),
                notes=tuple(
                    f"record {number} of {path.name}: {REFUSALS[why]}"
                    for path, one in zip(paths, replicas, strict=True)
                    for number, why in one.refused.items()
                ),
            )
    return sets


def select_solute(topology: Any, name: str, *, where: str = "") -> _Solute:
    """Heavy atoms of the solute of an mdtraj topology, with standard names and every bond that could be there.

    The solute is the chain of amino acids with their caps and modified residues (those that have N, CA and C); where
    there is no amino acid, it is every residue of more than one heavy atom that is not water.

    Raises:
        InputError: no solute, or a standard residue without all its heavy atoms.
    """
    residues = [(canonical_residue_name(r.name), r, _heavy_atoms(r)) for r in topology.residues]
    protein = any(residue in AMINO_ACIDS for residue, _, _ in residues)
    left_out: Counter[str] = Counter()
    kept: list[_Kept] = []
    residue_names: dict[_Place, str] = {}
    for residue, source, atoms in residues:
        names = frozenset(atom.name for atom in atoms)
        if not _is_solute(residue, names, source, protein):
            left_out[residue] += 1
            continue
        for atom in atoms:
            owner = patch_cap(residue, atom.name, names) or residue
            place = (source.index, 0 if owner == residue else -1 if owner == "ACE" else 1)
            residue_names[place] = owner[:3]
            kept.append((atom.index, place, canonical_atom_name(owner, atom.name)))
    if not kept:
        raise InputError(
            "this topology has no solute: only water, ions and hydrogens",
            where=where,
            fix="hand in the topology of the molecule that the trajectories hold",
        )
    elements = [topology.atom(index).element.symbol for index, _, _ in kept]
    molecule = _molecule(name, kept, elements, residue_names, where=where)
    _require_whole_residues(molecule, where=where)
    index = {atom: i for i, (atom, _, _) in enumerate(kept)}
    from_file = [(index[a.index], index[b.index]) for a, b in topology.bonds if a.index in index and b.index in index]
    bonds = {(min(p), max(p)) for p in [*from_file, *_standard_bonds(molecule)]}
    notes = tuple(f"left out {n} of residue {residue}" for residue, n in sorted(left_out.items()))
    return _Solute(
        np.array([atom for atom, _, _ in kept], dtype=np.int64),
        replace(molecule, bonds=np.array(sorted(bonds), dtype=np.int64).reshape(-1, 2)),
        notes,
    )


def _is_solute(residue: str, heavy_names: frozenset[str], source: Any, protein: bool) -> bool:
    if not heavy_names or residue in WATERS or source.is_water:
        return False
    if protein:
        return residue in AMINO_ACIDS or residue in CAPS or heavy_names >= _BACKBONE
    return len(heavy_names) > 1


def _heavy_atoms(residue: Any) -> list[Any]:
    return [atom for atom in residue.atoms if atom.element is not None and atom.element.symbol not in _NOT_HEAVY]


def _molecule(
    name: str, kept: list[_Kept], elements: list[str], residue_names: dict[_Place, str], *, where: str
) -> Molecule:
    """The molecule of the kept atoms, without bonds."""
    order = {place: i for i, place in enumerate(sorted(residue_names))}
    residue_of_atom = np.array([order[place] for _, place, _ in kept], dtype=np.int64)
    if np.any(np.diff(residue_of_atom) < 0):
        raise InputError(
            "the atoms of a residue do not stand together in this topology",
            where=where,
            fix="write topology and trajectories with the atoms in order of residue, the ACE cap first",
        )
    atom_names = tuple(atom for _, _, atom in kept)
    names = tuple(residue_names[place] for place in sorted(residue_names))
    return Molecule(
        name=name,
        atom_names=atom_names,
        elements=tuple(elements),
        residue_names=names,
        residue_of_atom=residue_of_atom,
        bonds=np.zeros((0, 2), dtype=np.int64),
        stereocentres=natural_stereocentres(atom_names, names, residue_of_atom),
    )


def _names_by_residue(molecule: Molecule) -> list[dict[str, int]]:
    found: list[dict[str, int]] = [{} for _ in molecule.residue_names]
    for i, (residue, name) in enumerate(zip(molecule.residue_of_atom, molecule.atom_names, strict=True)):
        found[residue][name] = i
    return found


def _require_whole_residues(molecule: Molecule, *, where: str) -> None:
    lacking = []
    for r, (residue, atoms) in enumerate(zip(molecule.residue_names, _names_by_residue(molecule), strict=True)):
        missing = HEAVY_ATOMS.get(residue, frozenset()) - atoms.keys()
        if missing:
            lacking.append(f"{residue}{r + 1} lacks {', '.join(sorted(missing))}")
    if lacking:
        more = f" (and {len(lacking) - _SHOWN} more residues)" if len(lacking) > _SHOWN else ""
        raise InputError(
            f"heavy atoms are missing: {'; '.join(lacking[:_SHOWN])}{more}",
            where=where,
            fix="hand in all heavy atoms: complete the structure before the MD (pdbfixer), or strip fewer atoms",
        )


def _require_bonds(molecule: Molecule, *, where: str) -> None:
    lonely = np.setdiff1d(np.arange(molecule.n_atoms), molecule.bonds)
    if len(lonely) and molecule.n_atoms > 1:
        r = int(molecule.residue_of_atom[lonely[0]])
        raise InputError(
            f"{len(lonely)} atoms have no bond, the first is {molecule.atom_names[lonely[0]]} of residue "
            f"{molecule.residue_names[r]}{r + 1}",
            where=where,
            fix="residues that are not standard need their bonds in the topology (CONECT records, or PSF, PRMTOP)",
        )


def _standard_bonds(molecule: Molecule) -> Iterator[tuple[int, int]]:
    """Bonds that names tell: within standard residues, and from each C to the next residue's N."""
    residues = _names_by_residue(molecule)
    for r, (residue, atoms) in enumerate(zip(molecule.residue_names, residues, strict=True)):
        for a, b in (*STANDARD_BONDS.get(residue, ()), ("C", "OXT")):
            if a in atoms and b in atoms:
                yield atoms[a], atoms[b]
        if r + 1 < len(residues) and "C" in atoms and "OXT" not in atoms and "N" in residues[r + 1]:
            yield atoms["C"], residues[r + 1]["N"]


def _with_real_links(molecule: Molecule, sets: list[np.ndarray]) -> tuple[Molecule, tuple[str, ...]]:
    """Keep the links between residues that have a bond's length, and add the disulfide bonds that the frames show.

    Lengths are taken relative to the frame's own scale, so that a slip of units does not cut the chain.
    """
    positions = np.concatenate(sets)
    positions = positions[np.isfinite(positions).all(axis=(1, 2))]
    if len(positions) == 0:
        return molecule, ()
    inside = molecule.residue_of_atom[molecule.bonds]
    within = molecule.bonds[inside[:, 0] == inside[:, 1]]
    links = molecule.bonds[inside[:, 0] != inside[:, 1]]
    sulfurs = [
        i for i, (n, e) in enumerate(zip(molecule.atom_names, molecule.elements, strict=True)) if (n, e) == ("SG", "S")
    ]
    bridges = np.array([(a, b) for a in sulfurs for b in sulfurs if a < b], dtype=np.int64).reshape(-1, 2)
    scale = length_scale(replace(molecule, bonds=within), positions)
    scale = np.where(scale > 0, scale, 1.0)
    links = np.unique(np.concatenate([links, bridges]), axis=0)
    real = _typical_lengths(positions, links, scale) <= _LINK_TOLERANCE * expected_bond_lengths(
        replace(molecule, bonds=links)
    )
    notes = []
    for (a, b), is_real in zip(links, real, strict=True):
        r, s = (int(molecule.residue_of_atom[i]) for i in (a, b))
        pair = f"{molecule.residue_names[r]}{r + 1} and {molecule.residue_names[s]}{s + 1}"
        if molecule.elements[a] == molecule.elements[b] == "S":
            notes += [f"disulfide bond between {pair}"] if is_real else []
        elif not is_real:
            notes.append(f"chain break between {pair}")
    bonds = np.unique(np.concatenate([within, links[real]]), axis=0)
    return replace(molecule, bonds=bonds), tuple(notes)


def _typical_lengths(positions_nm: np.ndarray, pairs: np.ndarray, scale: np.ndarray) -> Float[np.ndarray, " pairs"]:
    """Median over the frames of each pair's distance in units of the frame's scale."""
    if len(pairs) == 0:
        return np.zeros(0)
    lengths = [np.linalg.norm(positions_nm[:, a] - positions_nm[:, b], axis=-1) / scale for a, b in pairs]
    return np.array([np.median(length) for length in lengths])


def _load_topology(path: Path) -> Any:
    import mdtraj

    _require_file(path)
    try:
        return mdtraj.load_topology(str(path))
    except Exception as error:  # mdtraj's readers raise whatever their parsers do
        raise InputError(
            f"this topology cannot be read: {error}",
            where=str(path),
            fix="hand in a PDB, mmCIF, GRO, PSF or PRMTOP file with the ending that goes with its format",
        ) from error


def _read_positions(
    path: Path, topology: Any, topology_path: Path, solute: _Solute
) -> Float[np.ndarray, "frames atoms 3"]:
    """Heavy-atom positions of one trajectory file, whole molecules, read in pieces."""
    import mdtraj

    _require_file(path)
    pieces = []
    try:
        with warnings.catch_warnings(), quiet_reader():
            # NetCDF is read with scipy just as well; nobody needs to install another package for it.
            warnings.filterwarnings("ignore", message=".*netCDF4")
            # The first frame with all atoms: reading chosen atoms alone would not notice a trajectory of other atoms.
            mdtraj.load_frame(str(path), 0, top=topology)
            for piece in mdtraj.iterload(str(path), chunk=_CHUNK_FRAMES, top=topology, atom_indices=solute.atoms):
                positions = np.asarray(piece.xyz, dtype=np.float32)
                pieces.append(make_whole(positions, solute.molecule.bonds, piece.unitcell_vectors))
    except Exception as error:
        raise InputError(
            f"this trajectory cannot be read with its topology: {error or type(error).__name__}",
            where=f"{path} (topology: {topology_path}, {topology.n_atoms} atoms)",
            fix="hand in a whole trajectory of exactly the topology's atoms, in the same order",
        ) from error
    if sum(len(piece) for piece in pieces) == 0:
        raise InputError("this trajectory has no frames", where=str(path), fix="take it out of the configuration")
    return np.concatenate(pieces)


def make_whole(
    positions_nm: Float[np.ndarray, "frames atoms 3"],
    bonds: Int[np.ndarray, "bonds 2"],
    box_nm: Float[np.ndarray, "frames 3 3"] | None,
) -> Float[np.ndarray, "frames atoms 3"]:
    """Put each atom at the periodic image nearest to the atom that it is bonded to; rows of ``box_nm`` are the vectors.

    Without a box, or with one of no volume, positions are returned as they are.
    """
    if box_nm is None or not np.all(np.abs(np.linalg.det(box_nm)) > 0):
        return positions_nm
    whole = np.array(positions_nm, dtype=np.float64)
    to_box = np.linalg.inv(np.asarray(box_nm, dtype=np.float64))
    for parent, child in _outward(positions_nm.shape[1], bonds):
        step = whole[:, child] - whole[:, parent]
        images = np.rint(np.einsum("fi,fij->fj", step, to_box))
        whole[:, child] -= np.einsum("fi,fij->fj", images, box_nm)
    return whole.astype(np.float32)


def _outward(n_atoms: int, bonds: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bonds (parent, child) that reach every atom of each connected part once, from its first atom outward."""
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for a, b in bonds.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    seen = np.zeros(n_atoms, dtype=bool)
    for start in range(n_atoms):
        if seen[start]:
            continue
        seen[start] = True
        pending = [start]
        while pending:
            parent = pending.pop()
            for child in neighbours[parent]:
                if not seen[child]:
                    seen[child] = True
                    pending.append(child)
                    yield parent, child


def _cut_files(paths: list[Path], replicas: list[np.ndarray]) -> Iterator[str]:
    """DCD files that hold fewer frames than their header promises (a run that was stopped; other formats fail)."""
    for path, positions in zip(paths, replicas, strict=True):
        promised = dcd_frames(path)
        if promised is not None and promised > len(positions):
            yield f"{path.name} promises {promised} frames and holds {len(positions)}"


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), fix="check the path in the 'systems' section")
