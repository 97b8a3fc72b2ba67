"""Conformers of a small molecule: embedded by distance geometry, relaxed with the scoring energy, near copies dropped.

References:
    Wang, Witek, Landrum and Riniker, J. Chem. Inf. Model. 60, 2044 (2020): ETKDGv3.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ancdiff.chemistry import best_rmsd_nm, graph_of_molecule, molecule_of_graph
from ancdiff.config import EmbeddingSettings, ForcefieldSettings, ScoreSettings
from ancdiff.errors import StageError
from ancdiff.forcefield.relax import Relaxer
from ancdiff.forcefield.small_molecules import longest_bonds_nm, make_small_template
from ancdiff.molecules import Molecule, has_right_hands
from ancdiff.units import ANGSTROM_PER_NM

_FLAT_ANGSTROM = 1e-3
_TRIES = 20  # of a single embedding, with a seed each
_CONVERGED_FACTOR = 10.0  # as for scores: the RMS force may be so many times the tolerance
_RELAXATION = ScoreSettings(relax="full", max_iterations=2000)


@dataclass(frozen=True, eq=False)
class MadeConformers:
    """Conformers in order of their energy; ``counts`` says how many were tried and what became of them."""

    positions_nm: Float[np.ndarray, "conformers atoms 3"]
    energies_kj_mol: Float[np.ndarray, " conformers"]
    counts: dict[str, int]


def settled(graph: Any, name: str, *, seed: int) -> tuple[Molecule, Float[np.ndarray, "atoms 3"]]:
    """The molecule of an RDKit Mol, every stereocentre and double bond with one hand and side; and a first embedding.

    A graph with coordinates (of an SDF file) has theirs; where nothing is said, the first embedding decides. Draws from
    ``seed``.

    Raises:
        StageError: the graph cannot be embedded.
        InputError: as `molecule_of_graph`.
    """
    from rdkit import Chem

    graph = Chem.Mol(graph)
    if graph.GetNumConformers():
        drawn = graph.GetConformer()
        if np.ptp(drawn.GetPositions()[:, 2]) > _FLAT_ANGSTROM:
            drawn.Set3D(True)
            Chem.AssignStereochemistryFrom3D(graph)
        else:
            Chem.DetectBondStereochemistry(graph)
            Chem.AssignChiralTypesFromBondDirs(graph)
            Chem.AssignStereochemistry(graph, cleanIt=True, force=True)
    embedded = _embed(graph, 1, seed=seed)
    for attempt in range(1, _TRIES):
        if embedded.GetNumConformers():
            break
        embedded = _embed(graph, 1, seed=seed + attempt)
    if not embedded.GetNumConformers():
        raise StageError(
            f"{Chem.MolToSmiles(Chem.RemoveHs(graph))} cannot be embedded: no shape keeps its bonds and hands",
            where=name,
            fix="check rings and stereocentres of this molecule, or leave it out",
        )
    return molecule_of_graph(embedded, name, where=name), embedded.GetConformer().GetPositions() / ANGSTROM_PER_NM


def make_conformers(
    molecule: Molecule,
    example_nm: Float[np.ndarray, "atoms 3"],
    forcefield: ForcefieldSettings,
    settings: EmbeddingSettings,
    *,
    seed: int,
) -> MadeConformers:
    """Minima of the scoring energy, as found from ``settings.embeddings`` embeddings. Draws from ``seed``.

    Of conformers nearer than ``settings.rmsd_nm`` the lowest is kept; those above the window are dropped.

    Raises:
        InputError: the energy has no parameters for the molecule.
        StageError: no embedding becomes a conformer.
    """
    relaxer = Relaxer(make_small_template(molecule, example_nm, forcefield), forcefield, _RELAXATION)
    graph = graph_of_molecule(molecule, example_nm)
    _keep_hands(graph)
    embedded = _embed(graph, settings.embeddings, seed=seed)
    counts = Counter({"tried": settings.embeddings, "not embedded": settings.embeddings - embedded.GetNumConformers()})
    found: list[np.ndarray] = []
    energies: list[float] = []
    for conformer in embedded.GetConformers():
        status, positions_nm, energy = _relaxed(relaxer, molecule, conformer.GetPositions() / ANGSTROM_PER_NM)
        if status == "ok":
            found.append(positions_nm)
            energies.append(energy)
        else:
            counts[status] += 1
    if not found:
        raise StageError(
            f"none of {settings.embeddings} embeddings becomes a conformer ({_said(counts)})",
            where=molecule.name,
            fix="leave this molecule out, or take another energy (forcefield.small_molecule)",
        )
    order = np.argsort(energies, kind="stable")
    low = [int(k) for k in order if energies[k] <= energies[order[0]] + settings.window_kj_mol]
    kept = _apart(molecule, [found[k] for k in low], settings.rmsd_nm)
    counts["above the window"], counts["copies"] = len(found) - len(low), len(low) - len(kept)
    chosen = [low[k] for k in kept]
    return MadeConformers(
        np.array([found[k] for k in chosen]),
        np.array([energies[k] for k in chosen]),
        {what: count for what, count in counts.items() if count or what == "tried"} | {"kept": len(chosen)},
    )


def _embed(graph: Any, conformers: int, *, seed: int) -> Any:
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom

    graph = Chem.Mol(graph)
    how = rdDistGeom.ETKDGv3()
    how.randomSeed, how.numThreads = seed, 1
    with rdBase.BlockLogs():
        rdDistGeom.EmbedMultipleConfs(graph, conformers, how)
    return graph


def _keep_hands(graph: Any) -> None:
    """Let embeddings have the stereochemistry of the graph's conformer."""
    from rdkit import Chem

    graph.GetConformer().Set3D(True)
    Chem.AssignStereochemistryFrom3D(graph)


def _relaxed(relaxer: Relaxer, molecule: Molecule, positions_nm: np.ndarray) -> tuple[str, np.ndarray, float]:
    """Status, positions and energy of the minimum below an embedding."""
    import openmm

    try:
        relaxed = relaxer.relax(positions_nm)
    except openmm.OpenMMException:
        return "no energy", positions_nm, np.nan
    if not np.isfinite(relaxed.energy_kj_mol):
        return "no energy", positions_nm, np.nan
    if relaxed.rms_force_kj_mol_nm > _CONVERGED_FACTOR * _RELAXATION.tolerance_kj_mol_nm:
        return "not converged", positions_nm, np.nan
    ends = relaxed.positions_nm[molecule.bonds]
    if (np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1) > longest_bonds_nm(molecule)).any():
        return "broken bond", positions_nm, np.nan
    if not has_right_hands(molecule, relaxed.positions_nm[None])[0]:
        return "wrong hand", positions_nm, np.nan
    return "ok", relaxed.positions_nm, relaxed.energy_kj_mol


def _apart(molecule: Molecule, positions_nm: list[np.ndarray], rmsd_nm: float) -> list[int]:
    """Indices of conformers that are no near copy of one before them."""
    kept: list[int] = []
    for k, one in enumerate(positions_nm):
        before = [positions_nm[n] for n in kept]
        near = best_rmsd_nm(graph_of_molecule(molecule, one), graph_of_molecule(molecule, *before), polar=True)
        if not before or near.min() > rmsd_nm:
            kept.append(k)
    return kept


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in counts.items() if what != "tried" and count)
