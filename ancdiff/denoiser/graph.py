"""Molecules as the network sees them: index tensors, no coordinates."""

from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ancdiff.dataset.features import molecule_features
from ancdiff.molecules import Molecule


@dataclass(frozen=True, eq=False)
class MoleculeGraph:
    """Conditioning of the conformers of a batch, of one molecule or of several, side by side on one axis of atoms.

    Pairs are the unordered pairs of atoms of one conformer. Nothing is padded: a batch of several molecules is the
    disjoint union of their graphs (`side_by_side`).
    """

    atom_type: Int[Tensor, " atoms"]
    residue_type: Int[Tensor, " atoms"]
    atom_name: Int[Tensor, " atoms"]
    residue_position: Float[Tensor, "atoms 4"]
    conformer: Int[Tensor, " atoms"]  # to which conformer an atom belongs
    conformer_atoms: Float[Tensor, " conformers"]  # how many atoms a conformer has
    first: Int[Tensor, " pairs"]  # atom i of a pair
    second: Int[Tensor, " pairs"]  # atom j
    bond_distance: Int[Tensor, " pairs"]  # bonds on the shortest path, capped
    torsions: Int[Tensor, "torsions 4"]  # (i, j, k, l), one for each pair (i, l) three bonds apart
    torsion_pair: Int[Tensor, " torsions"]  # index of that pair
    stereocentres: Int[Tensor, "centres 4"]  # (centre, a, b, c)
    chemistry: Int[Tensor, "atoms kinds"]  # `ancdiff.dataset.features.CHEMISTRY`
    pair_kind: Int[Tensor, " pairs"]  # `ancdiff.dataset.features.PAIR_KINDS`

    @property
    def n_atoms(self) -> int:
        return len(self.atom_type)

    @property
    def n_conformers(self) -> int:
        return len(self.conformer_atoms)

    def to(self, target: torch.device | str | torch.dtype) -> "MoleculeGraph":
        """The same graph on another device, or with floats of another type."""
        only_floats = isinstance(target, torch.dtype)
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return MoleculeGraph(
            **{n: t.to(target) if t.is_floating_point() or not only_floats else t for n, t in tensors.items()}
        )


def molecule_graph(molecule: Molecule) -> MoleculeGraph:
    """The graph of one conformer of a molecule, on the CPU, in float32."""
    features = molecule_features(molecule)
    n = features.n_atoms
    first, second = torch.triu_indices(n, n, offset=1)
    pair_of = torch.full((n, n), -1)
    pair_of[first, second] = torch.arange(len(first))
    torsions = torch.as_tensor(features.torsions)
    torsions = torsions[torsions[:, 0] < torsions[:, 3]]
    return MoleculeGraph(
        atom_type=torch.as_tensor(features.atom_type),
        residue_type=torch.as_tensor(features.residue_type),
        atom_name=torch.as_tensor(features.atom_name),
        residue_position=torch.as_tensor(features.residue_position),
        conformer=torch.zeros(n, dtype=torch.int64),
        conformer_atoms=torch.tensor([float(n)]),
        first=first,
        second=second,
        bond_distance=torch.as_tensor(features.bond_distance)[first, second],
        torsions=torsions,
        torsion_pair=pair_of[torsions[:, 0], torsions[:, 3]],
        stereocentres=torch.as_tensor(features.stereocentres),
        chemistry=torch.as_tensor(features.chemistry),
        pair_kind=torch.as_tensor(features.pair_kind)[first, second],
    )


# What the numbers of an index tensor count, so that they can be shifted when graphs are laid side by side.
_COUNTS = {
    "conformer": "n_conformers",
    "first": "n_atoms",
    "second": "n_atoms",
    "torsions": "n_atoms",
    "torsion_pair": "n_pairs",
    "stereocentres": "n_atoms",
}


@lru_cache(maxsize=64)
def side_by_side(*blocks: tuple[MoleculeGraph, int]) -> MoleculeGraph:
    """The graph of several conformers of each of several molecules: (graph, number of conformers) for each block.

    Kept for the next call, since a training asks for the same batch shape at every step.
    """
    parts: dict[str, list[Tensor]] = {f.name: [] for f in fields(MoleculeGraph)}
    start = dict.fromkeys(_COUNTS.values(), 0)
    for graph, copies in blocks:
        size = {"n_atoms": graph.n_atoms, "n_conformers": graph.n_conformers, "n_pairs": len(graph.first)}
        copy = torch.arange(copies, device=graph.first.device)
        for name, collected in parts.items():
            tensor = getattr(graph, name)
            repeated = tensor.expand(copies, *tensor.shape)
            if name in _COUNTS:
                shift = start[_COUNTS[name]] + size[_COUNTS[name]] * copy
                repeated = repeated + shift.reshape(-1, *(1,) * tensor.ndim)
            collected.append(repeated.reshape(-1, *tensor.shape[1:]))
        start = {name: start[name] + copies * size[name] for name in start}
    return MoleculeGraph(**{name: torch.cat(tensors) for name, tensors in parts.items()})
