"""The SE(3)-equivariant network and its EDM preconditioning.

An EGNN (Satorras et al. 2021, arXiv 2102.09844): messages between all pairs of atoms see distances and the bond graph
and move the atoms along their difference vectors. Distances alone cannot tell a molecule from its mirror image, so each
pair three bonds apart also sees the torsion between its atoms (cosine and sine; the sine changes sign in a mirror), and
each stereocentre its signed volume. Turned and shifted input gives turned output; mirrored input does not.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ancdiff.config import DenoiserSettings
from ancdiff.dataset.features import (
    ATOM_NAMES,
    ATOM_TYPES,
    CHEMISTRY,
    MAX_BOND_DISTANCE,
    PAIR_KINDS,
    POSITION_FEATURES,
    RESIDUE_TYPES,
)
from ancdiff.denoiser.graph import MoleculeGraph, side_by_side

# Radial functions, in units of the preconditioned input (spread 1, about 0.16 nm in small peptides): coarse ones for
# the shape, fine ones where bonded and 1–3 distances lie, whose thermal spread is a fiftieth of their length.
_COARSE = (8, 0.0, 6.0)
_FINE = (16, 0.4, 1.9)
_EPSILON = 1e-4
_VECTORS = 4  # vector channels of an atom, in pairs that are multiplied


class Denoiser(nn.Module):
    """D(x_σ; σ) = c_skip x_σ + c_out F(c_in x_σ, c_noise), with EDM's coefficients.

    Output is centred. ``sigma_data_nm`` is the spread of the training data per coordinate. With ``chemistry`` there are
    weights for what bond orders tell (`ancdiff.dataset.features.CHEMISTRY`), which models of peptides have not.
    Reference: Karras et al. 2022 (arXiv 2206.00364), eq. 7 and table 1.
    """

    def __init__(self, settings: DenoiserSettings, *, sigma_data_nm: float, chemistry: bool = False) -> None:
        super().__init__()
        self.settings, self.chemistry = settings, chemistry
        self.sigma_data_nm = sigma_data_nm
        self.network = EquivariantNetwork(settings, chemistry=chemistry)

    def forward(
        self, noisy_nm: Float[Tensor, "atoms 3"], sigma_nm: Float[Tensor, " conformers"], graph: MoleculeGraph
    ) -> Float[Tensor, "atoms 3"]:
        """Conformers of one or several molecules side by side, as the graph says."""
        total = torch.sqrt(sigma_nm**2 + self.sigma_data_nm**2)
        c_skip, c_out, c_in = (self.sigma_data_nm / total) ** 2, sigma_nm * self.sigma_data_nm / total, 1 / total
        c_noise = 0.25 * torch.log(sigma_nm / self.sigma_data_nm)
        c_skip, c_out, c_in = (c[graph.conformer, None] for c in (c_skip, c_out, c_in))
        noisy = _centre_each(noisy_nm, graph)
        return c_skip * noisy + c_out * _centre_each(self.network(c_in * noisy, c_noise, graph), graph)

    def blocks(
        self,
        graphs: Sequence[MoleculeGraph],
        noisy_nm: Sequence[Float[Tensor, "_conformers _atoms 3"]],
        sigma_nm: Sequence[Float[Tensor, " _conformers"]],
    ) -> list[Float[Tensor, "_conformers _atoms 3"]]:
        """One pass for conformers of several molecules, a block for each."""
        graph = side_by_side(*((g, len(x)) for g, x in zip(graphs, noisy_nm, strict=True)))
        clean = self(torch.cat([x.flatten(0, 1) for x in noisy_nm]), torch.cat(list(sigma_nm)), graph)
        parts = clean.split([x.shape[0] * x.shape[1] for x in noisy_nm])
        return [part.reshape(x.shape) for part, x in zip(parts, noisy_nm, strict=True)]

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
        return self._denoiser.blocks([self._graph], [noisy_nm], [sigma_nm])[0]


class EquivariantNetwork(nn.Module):
    """F(x, c_noise, graph): a displacement for each atom; dimensionless input of unit spread."""

    def __init__(self, settings: DenoiserSettings, *, chemistry: bool) -> None:
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
        self.noise = nn.Sequential(
            nn.Linear(1 + 2 * len(_NOISE_FREQUENCIES), width), nn.SiLU(), nn.Linear(width, width)
        )
        self.layers = nn.ModuleList(
            Layer(width, settings.pair_features, chemistry=chemistry) for _ in range(settings.layers)
        )
        kinds = CHEMISTRY.values() if chemistry else ()
        self.chemistry = nn.ModuleList(nn.Embedding(len(words), width) for words in kinds)

    def forward(
        self, x: Float[Tensor, "atoms 3"], c_noise: Float[Tensor, " conformers"], graph: MoleculeGraph
    ) -> Float[Tensor, "atoms 3"]:
        h = self.position(graph.residue_position) + self.noise(_noise_features(c_noise))[graph.conformer]
        for name, table in self.embeddings.items():
            h = h + table(getattr(graph, name))
        for column, table in enumerate(self.chemistry):
            h = h + table(graph.chemistry[:, column])
        moved, start_distance = x, _pair_geometry(x, graph)[1]
        for layer in self.layers:
            h, moved = layer(h, moved, start_distance, graph)
        return moved - x


class Layer(nn.Module):
    """One round of messages. Invariant features h and positions x of the atoms are both updated.

    m_ij = φ(A (h_i + h_j) + P[bonds between i, j] + K[kind of i, j] + G [radial(d_ij), d_ij^start, torsion_ij]) = m_ji
    u_i^c, v_i^c = Σ_j (a^c, b^c)(m_ij) r_ij with r_ij = (x_i − x_j)/(d_ij + 1)/√N, for a few channels c
    h_i ← h_i + ψ(h_i, Σ_j g(m_ij) m_ij, u·u, u·v, (u^c × v^c)·u^{c+1}, signed volume_i)
    x_i ← x_i + Σ_j w(m_ij) r_ij + Σ_c s^c(h_i) u_i^c × v_i^c

    Messages are symmetric, so each pair is worked out once. The cross products are what can drive a stereocentre out of
    its plane to the right side: where it is nearly flat, all difference vectors lie in the plane.
    """

    radial_centres: Tensor
    radial_scales: Tensor

    def __init__(self, width: int, pair_width: int, *, chemistry: bool) -> None:
        super().__init__()
        self.atom_to_pair = nn.Linear(width, pair_width)
        self.bonds = nn.Embedding(MAX_BOND_DISTANCE + 1, pair_width)
        self.distances = nn.Linear(_COARSE[0] + _FINE[0] + 2, pair_width, bias=False)
        self.torsions = nn.Linear(2, pair_width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(pair_width, pair_width), nn.SiLU())
        self.pair_gates = nn.Linear(pair_width, 2 + 2 * _VECTORS)
        self.volume = nn.Linear(1, width, bias=False)
        self.update = nn.Sequential(
            nn.Linear(width + pair_width + 3 * _VECTORS, width), nn.SiLU(), nn.Linear(width, width + _VECTORS)
        )
        centres = [torch.linspace(low, high, n) for n, low, high in (_COARSE, _FINE)]
        widths = [torch.full((n,), (high - low) / (n - 1)) for n, low, high in (_COARSE, _FINE)]
        self.register_buffer("radial_centres", torch.cat(centres), persistent=False)
        self.register_buffer("radial_scales", 1.0 / torch.cat(widths), persistent=False)
        self.kinds = nn.Embedding(len(PAIR_KINDS), pair_width) if chemistry else None

    def forward(
        self,
        h: Float[Tensor, "atoms width"],
        x: Float[Tensor, "atoms 3"],
        start_distance: Float[Tensor, "pairs 1"],
        graph: MoleculeGraph,
    ) -> tuple[Float[Tensor, "atoms width"], Float[Tensor, "atoms 3"]]:
        h = h.index_add(0, graph.stereocentres[:, 0], self.volume(_signed_volumes(x, graph)))
        difference, distance = _pair_geometry(x, graph)
        radial = torch.exp(-0.5 * ((distance - self.radial_centres) * self.radial_scales).square())
        pair = self.distances(torch.cat([radial, distance, start_distance], dim=-1)) + self.bonds(graph.bond_distance)
        if self.kinds is not None:
            pair = pair + self.kinds(graph.pair_kind)
        ends = self.atom_to_pair(h)
        pair = pair + ends.index_select(0, graph.first) + ends.index_select(0, graph.second)
        pair = pair.index_add(0, graph.torsion_pair, self.torsions(_torsion_features(x, graph)))
        message = self.message(pair)
        gates = self.pair_gates(message)
        pulls = (gates[:, 1:, None] * (difference / (distance + 1.0))[:, None, :]).flatten(1)
        scale = graph.conformer_atoms.rsqrt()[graph.conformer, None]
        vectors = (_sum_to_atoms(pulls, graph, sign=-1) * scale).unflatten(-1, (-1, 3))
        kept = torch.sigmoid(gates[:, :1]) * message
        gathered = _sum_to_atoms(kept, graph, sign=1) * scale
        u, v = vectors[:, 1 : 1 + _VECTORS], vectors[:, 1 + _VECTORS :]
        cross = torch.linalg.cross(u, v)
        invariants = [(u * u).sum(-1), (u * v).sum(-1), (cross * u.roll(1, dims=-2)).sum(-1)]
        change = self.update(torch.cat([h, gathered, *invariants], dim=-1))
        x = x + vectors[:, 0] + (change[:, -_VECTORS:, None] * cross).sum(dim=-2)
        return h + change[:, :-_VECTORS], x


_NOISE_FREQUENCIES = (1.0, 2.0, 4.0)


def _noise_features(c_noise: Float[Tensor, " conformers"]) -> Float[Tensor, "conformers features"]:
    angles = torch.pi * c_noise[:, None] * c_noise.new_tensor(_NOISE_FREQUENCIES)
    return torch.cat([c_noise[:, None], torch.sin(angles), torch.cos(angles)], dim=-1)


def _centre_each(x: Float[Tensor, "atoms 3"], graph: MoleculeGraph) -> Float[Tensor, "atoms 3"]:
    """Each conformer about its own centroid."""
    total = x.new_zeros(graph.n_conformers, 3).index_add(0, graph.conformer, x)
    return x - (total / graph.conformer_atoms[:, None])[graph.conformer]


def _sum_to_atoms(
    pairs: Float[Tensor, "pairs features"], graph: MoleculeGraph, *, sign: int
) -> Float[Tensor, "atoms features"]:
    """Sum over the pairs of each atom; a pair gives its second atom ``sign`` times what it gives its first."""
    total = pairs.new_zeros(graph.n_atoms, pairs.shape[1])
    return total.index_add(0, graph.first, pairs).index_add(0, graph.second, pairs, alpha=sign)


def _pair_geometry(
    x: Float[Tensor, "atoms 3"], graph: MoleculeGraph
) -> tuple[Float[Tensor, "pairs 3"], Float[Tensor, "pairs 1"]]:
    """Difference vectors x_i − x_j and distances, smooth at zero."""
    difference = x.index_select(0, graph.first) - x.index_select(0, graph.second)
    return difference, torch.sqrt(difference.square().sum(-1, keepdim=True) + _EPSILON)


def _torsion_features(x: Float[Tensor, "atoms 3"], graph: MoleculeGraph) -> Float[Tensor, "torsions 2"]:
    """Cosine and sine of each torsion i-j-k-l, smooth where it is undefined."""
    i, j, k, l = (x.index_select(0, atom) for atom in graph.torsions.unbind(-1))  # noqa: E741 (its four atoms)
    b1, b2, b3 = j - i, k - j, l - k
    n1, n2 = torch.linalg.cross(b1, b2), torch.linalg.cross(b2, b3)
    norm = torch.sqrt(n1.square().sum(-1) * n2.square().sum(-1) + _EPSILON)
    b2_length = torch.sqrt(b2.square().sum(-1) + _EPSILON)
    return torch.stack([(n1 * n2).sum(-1) / norm, b2_length * (b1 * n2).sum(-1) / norm], dim=-1)


def _signed_volumes(x: Float[Tensor, "atoms 3"], graph: MoleculeGraph) -> Float[Tensor, "centres 1"]:
    """Signed volume of each stereocentre over the product of its bond lengths."""
    o, a, b, c = (x.index_select(0, atom) for atom in graph.stereocentres.unbind(-1))
    u, v, w = a - o, b - o, c - o
    volume = (u * torch.linalg.cross(v, w)).sum(-1, keepdim=True)
    norms = u.square().sum(-1, keepdim=True) * v.square().sum(-1, keepdim=True) * w.square().sum(-1, keepdim=True)
    return volume / torch.sqrt(norms + _EPSILON)
