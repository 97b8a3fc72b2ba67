"""Hydrogens: decided once for a molecule, then placed geometrically on every conformer from local frames.

A hydrogen keeps, in the frame of its parent and the parent's neighbours, the coordinates that it has in one relaxed
template. That costs microseconds for each conformer; relaxation does the rest.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.config import ForcefieldSettings
from ancdiff.errors import InputError
from ancdiff.forcefield.platforms import platform_by_name, setup_platform, single_threaded
from ancdiff.forcefield.system import PROTEIN_FILES, load_forcefield
from ancdiff.forcefield.topology import neighbour_lists
from ancdiff.molecules import Molecule

_PROTONATION_SEED = 7
# Below, both nitrogens of histidine carry a hydrogen (the pKa that OpenMM's own rules have).
_HISTIDINE_PKA = 6.5


def add_hydrogens(
    topology: Any,
    positions_nm: Float[np.ndarray, "atoms 3"],
    settings: ForcefieldSettings,
    states: Mapping[int, str] | None = None,
) -> tuple[Any, np.ndarray]:
    """Topology and positions with hydrogens at ``forcefield.ph``; ``states`` of residues by index go before its rules.

    Asp, Glu and Lys by OpenMM's model pKa (4.0, 4.4, 10.4), Arg and Tyr as at pH 7, Cys by its bonds, His doubly
    protonated up to pH 6.5 and ``forcefield.histidine`` above. Their rough places come from ff14SB in vacuum,
    whichever force field is used later.
    Deterministic: OpenMM starts the hydrogens at places from Python's global generator, which is lent a fixed seed.

    Raises:
        InputError: a residue is not known, or lacks heavy atoms.
    """
    from openmm import app, unit

    nanometer = vars(unit)["nanometer"]  # made at run time, where type checkers do not see it
    modeller = app.Modeller(topology, np.asarray(positions_nm, dtype=np.float64) * nanometer)
    named = states or {}
    variants = [_variant(residue, named.get(residue.index), settings) for residue in topology.residues()]
    forcefield = load_forcefield(PROTEIN_FILES["ff14SB"])
    platform = platform_by_name(setup_platform(2 * topology.getNumAtoms()))  # about as many hydrogens
    try:
        with _fixed_global_random(_PROTONATION_SEED), single_threaded(platform):
            modeller.addHydrogens(forcefield, pH=settings.ph, variants=variants, platform=platform)
    except (ValueError, KeyError) as error:
        raise InputError(
            f"hydrogens cannot be added to this molecule: {error}",
            where="topology",
            fix="use the standard amino acids and caps (ACE, NME, NH2), with PDB atom names, or give all hydrogens",
        ) from error
    return modeller.topology, np.array(modeller.positions.value_in_unit(nanometer), dtype=np.float64)


def _variant(residue: Any, state: str | None, settings: ForcefieldSettings) -> str | None:
    """Name of the state for OpenMM; None leaves the choice to its rules."""
    if residue.name == "CYS":
        bridged = any({bond[0].name, bond[1].name} == {"SG"} for bond in residue.external_bonds())
        return "CYX" if bridged else "CYS"
    if state is not None:
        return state
    if residue.name == "HIS":
        if settings.ph <= _HISTIDINE_PKA:
            return "HIP"
        return None if settings.histidine == "hydrogen_bonds" else settings.histidine
    return None


@contextmanager
def _fixed_global_random(seed: int) -> Iterator[None]:
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@dataclass(frozen=True, eq=False)
class Rotor:
    """Hydrogens that turn together about the bond from ``pivot`` to their parent; ``symmetry`` equal positions."""

    parent: int
    pivot: int
    hydrogens: tuple[int, ...]
    symmetry: int


@dataclass(frozen=True, eq=False)
class HydrogenPlacer:
    """Places the hydrogens of a molecule from its heavy atoms; made by `placer_from_template`.

    Frames: origin at the parent p, x along ``toward``, z normal to the plane of x and ``aside``.
    """

    heavy: Int[np.ndarray, " heavy"]
    n_atoms: int
    hydrogens: Int[np.ndarray, " hydrogens"]
    frame_atoms: Int[np.ndarray, "hydrogens 4"]
    frame_kinds: Int[np.ndarray, " hydrogens"]
    local_nm: Float[np.ndarray, "hydrogens 3"]
    polar_rotors: tuple[Rotor, ...]

    def place(self, heavy_nm: Float[np.ndarray, "conformers heavy 3"]) -> Float[np.ndarray, "conformers atoms 3"]:
        """All-atom positions; the heavy atoms are those given."""
        positions = np.zeros((len(heavy_nm), self.n_atoms, 3))
        positions[:, self.heavy] = heavy_nm
        if len(self.hydrogens):
            origin, axes = local_frames(positions, self.frame_atoms, self.frame_kinds)
            positions[:, self.hydrogens] = origin + np.einsum("fhki,hk->fhi", axes, self.local_nm)
        return positions


def placer_from_template(molecule: Molecule, template_nm: Float[np.ndarray, "atoms 3"]) -> HydrogenPlacer:
    """A placer with the hydrogens' local coordinates of an all-atom structure."""
    is_hydrogen = np.array([element == "H" for element in molecule.elements])
    neighbours = neighbour_lists(molecule)
    hydrogens = np.flatnonzero(is_hydrogen)
    rows, kinds = [], []
    for hydrogen in hydrogens:
        row, kind = _frame_of(int(hydrogen), neighbours, is_hydrogen, molecule)
        rows.append(row)
        kinds.append(kind)
    frame_atoms = np.array(rows, dtype=np.int64).reshape(-1, 4)
    frame_kinds = np.array(kinds, dtype=np.int64)
    local = np.zeros((0, 3))
    if len(hydrogens):
        origin, axes = local_frames(template_nm[None], frame_atoms, frame_kinds)
        local = np.einsum("hki,hi->hk", axes[0], template_nm[hydrogens] - origin[0])
    return HydrogenPlacer(
        heavy=np.flatnonzero(~is_hydrogen),
        n_atoms=molecule.n_atoms,
        hydrogens=hydrogens,
        frame_atoms=frame_atoms,
        frame_kinds=frame_kinds,
        local_nm=local,
        polar_rotors=tuple(_polar_rotors(molecule, neighbours, is_hydrogen)),
    )


def turn_rotor(
    positions_nm: Float[np.ndarray, "atoms 3"], rotor: Rotor, angle_rad: float
) -> Float[np.ndarray, "atoms 3"]:
    """The positions with a rotor's hydrogens turned about its bond."""
    rows = list(rotor.hydrogens)
    axis = positions_nm[rotor.parent] - positions_nm[rotor.pivot]
    turned = positions_nm.copy()
    turned[rows] = positions_nm[rotor.parent] + rotate(
        positions_nm[rows] - positions_nm[rotor.parent], axis / np.linalg.norm(axis), angle_rad
    )
    return turned


def rotate(vectors: Float[np.ndarray, "n 3"], axis: Float[np.ndarray, " 3"], angle_rad: float) -> np.ndarray:
    """Rodrigues' rotation about a unit axis: v cos θ + (a × v) sin θ + a (a·v)(1 − cos θ)."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return vectors * cos + np.cross(axis, vectors) * sin + axis * (vectors @ axis)[:, None] * (1 - cos)


# How a parent's frame is made: from one neighbour and an atom beyond it, from two neighbours, or from three.
_ONE, _TWO, _THREE = 1, 2, 3


def _frame_of(
    hydrogen: int, neighbours: Sequence[Sequence[int]], is_hydrogen: np.ndarray, molecule: Molecule
) -> tuple[tuple[int, int, int, int], int]:
    parents = neighbours[hydrogen]
    if len(parents) != 1:
        raise InputError(
            f"hydrogen {molecule.atom_names[hydrogen]} has {len(parents)} bonds",
            where=molecule.name,
            fix="hand in heavy atoms only, or a topology with one bond for each hydrogen",
        )
    parent = parents[0]
    near = [n for n in neighbours[parent] if not is_hydrogen[n]]
    if len(near) >= 3:
        return (parent, near[0], near[1], near[2]), _THREE
    if len(near) == 2:
        return (parent, near[0], near[1], near[0]), _TWO
    beyond = [n for a in near for n in neighbours[a] if n != parent and not is_hydrogen[n]]
    if not beyond:
        residue = molecule.residue_names[int(molecule.residue_of_atom[parent])]
        raise InputError(
            f"atom {molecule.atom_names[parent]} of {residue} has too few heavy atoms about it to place hydrogens",
            where=molecule.name,
            fix="hand in conformers with hydrogens, or leave out waters and ions",
        )
    return (parent, near[0], beyond[0], near[0]), _ONE


def local_frames(
    positions: np.ndarray, atoms: Int[np.ndarray, "hydrogens 4"], kinds: Int[np.ndarray, " hydrogens"]
) -> tuple[np.ndarray, np.ndarray]:
    """Origins [conformers, hydrogens, 3] and orthonormal axes [conformers, hydrogens, 3 (x, y, z), 3] of parents."""
    p, a, b, c = (positions[:, atoms[:, k]] for k in range(4))
    to_a, to_b, to_c = _unit(a - p), _unit(b - p), _unit(c - p)
    kinds = kinds[None, :, None]
    x = np.where(kinds == _ONE, to_a, np.where(kinds == _TWO, _unit(to_a + to_b), _unit(to_a + to_b + to_c)))
    aside = np.where(kinds == _ONE, b - a, np.where(kinds == _TWO, to_b, to_a))
    z = _unit(np.cross(x, aside))
    return p, np.stack([x, np.cross(z, x), z], axis=2)


def _unit(vectors: np.ndarray) -> np.ndarray:
    # Coincident or collinear atoms give a zero axis, so that their hydrogens fall on the parent: a clash, not a NaN.
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


def _polar_rotors(molecule: Molecule, neighbours: Sequence[Sequence[int]], is_hydrogen: np.ndarray) -> Iterator[Rotor]:
    """Hydroxyl, thiol and ammonium groups: their hydrogens turn freely and make hydrogen bonds."""
    for parent, element in enumerate(molecule.elements):
        heavy = [n for n in neighbours[parent] if not is_hydrogen[n]]
        own = tuple(n for n in neighbours[parent] if is_hydrogen[n])
        if len(heavy) != 1:
            continue
        if element in ("O", "S") and len(own) == 1:
            yield Rotor(parent, heavy[0], own, 1)
        elif element == "N" and len(own) == 3:
            yield Rotor(parent, heavy[0], own, 3)
