"""The SE(3)-equivariant network and its EDM preconditioning.

An EGNN (Satorras et al. 2021, arXiv 2102.09844): messages between all pairs of atoms see distances and the bond graph
and move the atoms along their difference vectors. Distances alone cannot tell a molecule from its mirror image, so each
pair three bonds apart also sees the torsion between its atoms (cosine and sine; the sine changes sign in a mirror), and
each stereocentre its signed volume. Turned and shifted input gives turned output; mirrored input does not.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ancdiff.config import DenoiserSettings
from ancdiff.dataset.features import (
    ATOM_NAMES,
    ATOM_TYPES,
    MAX_BOND_DISTANCE,
    POSITION_FEATURES,
    RESIDUE_TYPES,
)
from ancdiff.denoiser.graph import MoleculeGraph
from ancdiff.diffusion.noise import centre

_RADIAL = 16
_RADIAL_MAX = 6.0  # in units of the preconditioned input, whose spread is 1
_EPSILON = 1e-4


class Denoiser(nn.Module):
    """D(x_σ; σ) = c_skip x_σ + c_out F(c_in x_σ, c_noise), with EDM's coefficients.

    Output is centred. ``sigma_data_nm`` is the spread of the training data per coordinate.
    Reference: Karras et al. 2022 (arXiv 2206.00364), eq. 7 and table 1.
    """

    def __init__(self, settings: DenoiserSettings, *, sigma_data_nm: float) -> None:
        super().__init__()
        self.settings = settings
        self.sigma_data_nm = sigma_data_nm
        self.network = EquivariantNetwork(settings)

    def forward(
        self, noisy_nm: Float[Tensor, "batch atoms 3"], sigma_nm: Float[Tensor, " batch"], graph: MoleculeGraph
    ) -> Float[Tensor, "batch atoms 3"]:
        sigma = sigma_nm[:, None, None]
        total = torch.sqrt(sigma**2 + self.sigma_data_nm**2)
        c_skip, c_out, c_in = (self.sigma_data_nm / total) ** 2, sigma * self.sigma_data_nm / total, 1 / total
        c_noise = 0.25 * torch.log(sigma_nm / self.sigma_data_nm)
        noisy = centre(noisy_nm)
        return c_skip * noisy + c_out * centre(self.network(c_in * noisy, c_noise, graph))

    def on(self, graph: MoleculeGraph) -> "DenoiserOfMolecule":
        """This denoiser for one molecule, as the functions of `ancdiff.diffusion` take it."""
        return DenoiserOfMolecule(self, graph)


class DenoiserOfMolecule:
    """A denoiser bound to one molecule: a `ancdiff.diffusion.Denoise`."""

    def __init__(self, denoiser: Denoiser, graph: MoleculeGraph) -> None:
        self._denoiser, self._graph = denoiser, graph

    def __call__(
        self, noisy_nm: Float[Tensor, "batch atoms 3"], sigma_nm: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch atoms 3"]:
        return self._denoiser(noisy_nm, sigma_nm, self._graph)


class EquivariantNetwork(nn.Module):
    """F(x, c_noise, graph): a displacement for each atom; dimensionless input of unit spread."""

    def __init__(self, settings: DenoiserSettings) -> None:
        super().__init__()
        width = settings.features
        self.embeddings = nn.ModuleDict(
            {
                "atom_type": nn.Embedding(len(ATOM_TYPES), width),
                "residue_type": nn.Embedding(len(RESIDUE_TYPES), width),
                "atom_name": nn.Embedding(len(ATOM_NAMES), width),
            }
        )
        self.position = nn.Linear(len(POSITION_FEATURES), width)
        self.noise = nn.Sequential(nn.Linear(1 + 2 * len(_NOISE_FREQUENCIES), width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(Layer(width, settings.pair_features) for _ in range(settings.layers))

    def forward(
        self, x: Float[Tensor, "batch atoms 3"], c_noise: Float[Tensor, " batch"], graph: MoleculeGraph
    ) -> Float[Tensor, "batch atoms 3"]:
        atoms = self.position(graph.residue_position)
        for name, table in self.embeddings.items():
            atoms = atoms + table(getattr(graph, name))
        h = atoms + self.noise(_noise_features(c_noise))[:, None, :]
        moved = x
        for layer in self.layers:
            h, moved = layer(h, moved, x, graph)
        return moved - x


class Layer(nn.Module):
    """One round of messages. Invariant features h and positions x of the atoms are both updated.

    m_ij = φ(A h_i + B h_j + P[bonds between i, j] + G [radial(d_ij), d_ij^start, torsion_ij])
    x_i ← x_i + Σ_j w(m_ij) (x_i − x_j)/(d_ij + 1)/√N;  h_i ← h_i + ψ(h_i, Σ_j g(m_ij) m_ij, signed volume_i)
    """

    def __init__(self, width: int, pair_width: int) -> None:
        super().__init__()
        self.receiver = nn.Linear(width, pair_width)
        self.sender = nn.Linear(width, pair_width, bias=False)
        self.bonds = nn.Embedding(MAX_BOND_DISTANCE + 1, pair_width)
        self.geometry = nn.Linear(_RADIAL + 4, pair_width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(pair_width, pair_width), nn.SiLU())
        self.gates = nn.Linear(pair_width, 2)
        self.update = nn.Sequential(nn.Linear(width + pair_width + 1, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.gates.weight)
        self.register_buffer("radial_centres", torch.linspace(0.0, _RADIAL_MAX, _RADIAL), persistent=False)

    def forward(
        self,
        h: Float[Tensor, "batch atoms width"],
        x: Float[Tensor, "batch atoms 3"],
        x_start: Float[Tensor, "batch atoms 3"],
        graph: MoleculeGraph,
    ) -> tuple[Float[Tensor, "batch atoms width"], Float[Tensor, "batch atoms 3"]]:
        difference, distance = _pair_geometry(x)
        geometry = torch.cat(
            [
                torch.exp(-2.0 * (distance - self.radial_centres) ** 2),
                distance,
                _pair_geometry(x_start)[1],
                _torsion_features(x, graph.torsions),
            ],
            dim=-1,
        )
        pair = self.receiver(h)[:, :, None] + self.sender(h)[:, None] + self.bonds(graph.bond_distance)
        message = self.message(pair + self.geometry(geometry))
        move, gate = self.gates(message).split(1, dim=-1)
        n = x.shape[1]
        # An atom's message to itself has zero difference and moves nothing.
        x = x + (move * difference / (distance + 1.0)).sum(dim=2) / n**0.5
        gathered = (torch.sigmoid(gate) * message).sum(dim=2) / n**0.5
        volume = _signed_volume(x, graph.stereocentres)
        h = h + self.update(torch.cat([h, gathered, volume], dim=-1))
        return h, x


_NOISE_FREQUENCIES = (1.0, 2.0, 4.0)


def _noise_features(c_noise: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
    angles = torch.pi * c_noise[:, None] * c_noise.new_tensor(_NOISE_FREQUENCIES)
    return torch.cat([c_noise[:, None], torch.sin(angles), torch.cos(angles)], dim=-1)


def _pair_geometry(
    x: Float[Tensor, "batch atoms 3"],
) -> tuple[Float[Tensor, "batch atoms atoms 3"], Float[Tensor, "batch atoms atoms 1"]]:
    """Difference vectors x_i − x_j and distances, smooth at zero."""
    difference = x[:, :, None] - x[:, None]
    return difference, torch.sqrt(difference.square().sum(-1, keepdim=True) + _EPSILON)


def _torsion_features(
    x: Float[Tensor, "batch atoms 3"], torsions: Int[Tensor, "torsions 4"]
) -> Float[Tensor, "batch atoms atoms 2"]:
    """Cosine and sine of the torsion i-j-k-l at pair (i, l), zero elsewhere; smooth where it is undefined."""
    i, j, k, l = torsions.unbind(-1)  # noqa: E741 (the four atoms of a torsion)
    b1, b2, b3 = x[:, j] - x[:, i], x[:, k] - x[:, j], x[:, l] - x[:, k]
    n1, n2 = torch.linalg.cross(b1, b2), torch.linalg.cross(b2, b3)
    norm = torch.sqrt(n1.square().sum(-1) * n2.square().sum(-1) + _EPSILON)
    b2_length = torch.sqrt(b2.square().sum(-1) + _EPSILON)
    values = torch.stack([(n1 * n2).sum(-1) / norm, b2_length * (b1 * n2).sum(-1) / norm], dim=-1)
    features = x.new_zeros(x.shape[0], x.shape[1], x.shape[1], 2)
    features[:, i, l] = values
    return features


def _signed_volume(
    x: Float[Tensor, "batch atoms 3"], stereocentres: Int[Tensor, "centres 4"]
) -> Float[Tensor, "batch atoms 1"]:
    """Signed volume of each stereocentre over the product of its bond lengths, at the centre; zero elsewhere."""
    o, a, b, c = stereocentres.unbind(-1)
    u, v, w = x[:, a] - x[:, o], x[:, b] - x[:, o], x[:, c] - x[:, o]
    volume = (u * torch.linalg.cross(v, w)).sum(-1)
    norm = torch.sqrt(u.square().sum(-1) * v.square().sum(-1) * w.square().sum(-1) + _EPSILON)
    features = x.new_zeros(x.shape[0], x.shape[1], 1)
    features[:, o, 0] = volume / norm
    return features
