"""A molecule as the network sees it: index tensors, no coordinates."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ancdiff.dataset.features import molecule_features
from ancdiff.molecules import Molecule


@dataclass(frozen=True, eq=False)
class MoleculeGraph:
    """Conditioning of one molecule. A batch holds conformers of one molecule, so it has no batch axis."""

    atom_type: Int[Tensor, " atoms"]
    residue_type: Int[Tensor, " atoms"]
    atom_name: Int[Tensor, " atoms"]
    residue_position: Float[Tensor, "atoms 4"]
    bond_distance: Int[Tensor, "atoms atoms"]  # bonds on the shortest path, capped
    torsions: Int[Tensor, "torsions 4"]  # (i, j, k, l) for ordered pairs (i, l) three bonds apart
    stereocentres: Int[Tensor, "centres 4"]  # (centre, a, b, c)

    @property
    def n_atoms(self) -> int:
        return len(self.atom_type)

    def to(self, device: torch.device | str) -> "MoleculeGraph":
        """The same graph on another device."""
        return MoleculeGraph(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def molecule_graph(molecule: Molecule) -> MoleculeGraph:
    """The graph of a molecule, on the CPU."""
    features = molecule_features(molecule)
    as_tensor = {f.name: torch.as_tensor(getattr(features, f.name)) for f in fields(MoleculeGraph)}
    return MoleculeGraph(**as_tensor)
