"""A metric for relaxing hydrogens: the bonded stiffness of each group of hydrogens, in its own local frame.

The bonded Hessian of a parent's hydrogens is nearly the same in every conformer once it is seen from the parent's local
frame, so that it is measured once on the template and turned with the frame. With its inverse as L-BFGS's first guess a
relaxation takes a handful of energies instead of a hundred.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.forcefield.hydrogens import local_frames
from ancdiff.forcefield.platforms import platform_by_name
from ancdiff.forcefield.system import GROUPS
from ancdiff.forcefield.template import Template

_BONDED = {GROUPS[part] for part in ("bond", "angle", "torsion")}
_DISPLACEMENT_NM = 1e-4
# Softest direction that the metric admits: a little above the turn of a methyl (some 20 kJ/mol/rad² at 0.1 nm).
_SOFTEST_KJ_MOL_NM2 = 5000.0


class HydrogenMetric:
    """Inverse of the bonded hydrogen Hessian, block by block (one block for the hydrogens of one parent)."""

    def __init__(self, template: Template, system: Any) -> None:
        placer = template.placer
        first, self._slots = _groups(placer.frame_atoms[:, 0])
        self._frame = placer.frame_atoms[first], placer.frame_kinds[first]
        local = _bonded_blocks(template, system, self._frame, self._slots)
        values, vectors = np.linalg.eigh(local)
        inverse = 1.0 / np.maximum(values, _SOFTEST_KJ_MOL_NM2)
        blocks = np.einsum("gik,gk,gjk->gij", vectors, inverse, vectors)
        self._local_inverse = blocks.reshape(len(blocks), 3, 3, 3, 3)
        self._filled = self._slots >= 0

    def at(self, positions_nm: Float[np.ndarray, "atoms 3"]) -> Any:
        """The inverse metric of a conformer, as a function on flat vectors over the hydrogens."""
        _, axes = local_frames(positions_nm[None], *self._frame)
        # From the local frames (axes are rows) to the laboratory's: Aᵀ B A for each pair of hydrogens of a group.
        a = axes[0][:, None]
        half = (self._local_inverse.reshape(-1, 9, 3, 3) @ a).reshape(-1, 3, 3, 9)  # [g, k, i, (l, b)]
        blocks = (a.transpose(0, 1, 3, 2) @ half).reshape(-1, 9, 9)  # [g, (k, a), (l, b)]
        slots, filled = self._slots, self._filled
        padded = np.zeros((*slots.shape, 3))

        def apply(vector: np.ndarray) -> np.ndarray:
            rows = vector.reshape(-1, 3)
            padded[filled] = rows[slots[filled]]
            turned = (blocks @ padded.reshape(-1, 9, 1)).reshape(padded.shape)
            result = np.empty_like(rows)
            result[slots[filled]] = turned[filled]
            return result.ravel()

        return apply


def _groups(parents: Int[np.ndarray, " hydrogens"]) -> tuple[Int[np.ndarray, " groups"], Int[np.ndarray, "groups 3"]]:
    """First hydrogen of each parent, and the (up to three) hydrogens of each, −1 where there are fewer."""
    _, first, group = np.unique(parents, return_index=True, return_inverse=True)
    slots = np.full((len(first), 3), -1, dtype=np.int64)
    filled = np.zeros(len(first), dtype=np.int64)
    for hydrogen, g in enumerate(group):
        slots[g, filled[g]] = hydrogen
        filled[g] += 1
    return first, slots


def _bonded_blocks(
    template: Template, system: Any, frame: tuple[np.ndarray, np.ndarray], slots: Int[np.ndarray, "groups 3"]
) -> Float[np.ndarray, "groups 9 9"]:
    """Bonded Hessian of each group in its local frame by central differences; an unused slot is stiff and uncoupled.

    Groups whose parents are not bonded to each other share no bonded term with both their hydrogens, so that all
    groups of one colour are displaced at once.
    """
    import openmm

    context: Any = openmm.Context(system, openmm.VerletIntegrator(0.001), platform_by_name("Reference"))
    positions_nm = template.positions_nm
    _, axes = local_frames(positions_nm[None], *frame)
    axes = axes[0]
    hydrogens = template.placer.hydrogens
    blocks = np.zeros((len(slots), 9, 9))
    colours = _colours(template, frame[0][:, 0])
    for colour in range(colours.max(initial=-1) + 1):
        for slot in range(3):
            chosen = np.flatnonzero((colours == colour) & (slots[:, slot] >= 0))
            for axis in range(3):
                response = np.zeros((template.molecule.n_atoms, 3))
                for sign in (1.0, -1.0):
                    displaced = positions_nm.copy()
                    atoms = hydrogens[slots[chosen, slot]]
                    displaced[atoms] += sign * _DISPLACEMENT_NM * axes[chosen, axis]
                    context.setPositions(displaced)
                    forces = context.getState(forces=True, groups=_BONDED).getForces(asNumpy=True)
                    response -= sign * np.asarray(forces._value) / (2 * _DISPLACEMENT_NM)
                for g in chosen:
                    used = slots[g] >= 0
                    column = np.zeros((3, 3))
                    column[used] = response[hydrogens[slots[g][used]]] @ axes[g].T
                    blocks[g, :, 3 * slot + axis] = column.ravel()
    unused = np.repeat(slots < 0, 3, axis=1)
    blocks[unused] = 0.0
    g, k = np.nonzero(unused)
    blocks[g, k, k] = 1e6
    return (blocks + blocks.transpose(0, 2, 1)) / 2


def _colours(template: Template, parents: Int[np.ndarray, " groups"]) -> Int[np.ndarray, " groups"]:
    """Greedy colouring: groups with bonded parents differ."""
    group_of = {int(p): g for g, p in enumerate(parents)}
    near: list[set[int]] = [set() for _ in parents]
    for a, b in template.molecule.bonds:
        if int(a) in group_of and int(b) in group_of:
            near[group_of[int(a)]].add(group_of[int(b)])
            near[group_of[int(b)]].add(group_of[int(a)])
    colours = np.full(len(parents), -1, dtype=np.int64)
    for g in range(len(parents)):
        taken = {int(colours[n]) for n in near[g]}
        colours[g] = next(c for c in range(len(parents)) if c not in taken)
    return colours
