"""A molecule as the network sees it: index tensors, no coordinates."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ancdiff.dataset.features import molecule_features
from ancdiff.molecules import Molecule


@dataclass(frozen=True, eq=False)
class MoleculeGraph:
    """Conditioning of one molecule. A batch holds conformers of one molecule, so it has no batch axis.

    Pairs are the unordered pairs (i, j), i < j, of atoms. The incidence matrices carry features from atoms to pairs and
    sums from pairs to atoms as dense products: row p of ``incidence`` has 1 at i and j, of ``orientation`` 1 at i and
    −1 at j.
    """

    atom_type: Int[Tensor, " atoms"]
    residue_type: Int[Tensor, " atoms"]
    atom_name: Int[Tensor, " atoms"]
    residue_position: Float[Tensor, "atoms 4"]
    bond_distance: Int[Tensor, " pairs"]  # bonds on the shortest path, capped
    incidence: Float[Tensor, "pairs atoms"]
    orientation: Float[Tensor, "pairs atoms"]
    torsions: Int[Tensor, "torsions 4"]  # (i, j, k, l), one for each pair (i, l) three bonds apart
    torsion_pair: Int[Tensor, " torsions"]  # index of that pair
    stereocentres: Int[Tensor, "centres 4"]  # (centre, a, b, c)

    @property
    def n_atoms(self) -> int:
        return len(self.atom_type)

    def to(self, target: torch.device | str | torch.dtype) -> "MoleculeGraph":
        """The same graph on another device, or with floats of another type."""
        only_floats = isinstance(target, torch.dtype)
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return MoleculeGraph(
            **{n: t.to(target) if t.is_floating_point() or not only_floats else t for n, t in tensors.items()}
        )


def molecule_graph(molecule: Molecule) -> MoleculeGraph:
    """The graph of a molecule, on the CPU, in float32."""
    features = molecule_features(molecule)
    n = features.n_atoms
    first, second = torch.triu_indices(n, n, offset=1)
    pair_of = torch.full((n, n), -1)
    pair_of[first, second] = torch.arange(len(first))
    one_hot = torch.eye(n)
    torsions = torch.as_tensor(features.torsions)
    torsions = torsions[torsions[:, 0] < torsions[:, 3]]
    return MoleculeGraph(
        atom_type=torch.as_tensor(features.atom_type),
        residue_type=torch.as_tensor(features.residue_type),
        atom_name=torch.as_tensor(features.atom_name),
        residue_position=torch.as_tensor(features.residue_position),
        bond_distance=torch.as_tensor(features.bond_distance)[first, second],
        incidence=one_hot[first] + one_hot[second],
        orientation=one_hot[first] - one_hot[second],
        torsions=torsions,
        torsion_pair=pair_of[torsions[:, 0], torsions[:, 3]],
        stereocentres=torch.as_tensor(features.stereocentres),
    )
