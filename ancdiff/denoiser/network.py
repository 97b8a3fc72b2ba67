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
from ancdiff.denoiser.embedding import NOISE_FEATURES, RadialFunctions, noise_features
from ancdiff.denoiser.graph import MoleculeGraph, side_by_side

# Radial functions, in units of the preconditioned input (spread 1, about 0.16 nm in small peptides): coarse ones for
# the shape, fine ones where bonded and 1–3 distances lie, whose thermal spread is a fiftieth of their length.
_COARSE = (8, 0.0, 6.0)
_FINE = (16, 0.4, 1.9)
_DISTANCE_FEATURES = _COARSE[0] + _FINE[0] + 1
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

    def compile_layers(self) -> None:
        """Have the layers translated to machine code at their first use, where ``settings.compile`` asks for it.

        Numbers change by rounding. A layer is one program for all of them, whatever the number of atoms and conformers;
        copies of this denoiser are not translated. Not for traces: `torch.func` does not see through it.
        """
        if self.settings.compile:
            for layer in self.network.layers:
                layer.compile(dynamic=True)

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
        self.noise = nn.Sequential(nn.Linear(NOISE_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.bonds = nn.Embedding(MAX_BOND_DISTANCE + 1, settings.pair_features)
        self.radial = RadialFunctions(_COARSE, _FINE)
        self.start = nn.Linear(_DISTANCE_FEATURES, settings.pair_features, bias=False)
        self.layers = nn.ModuleList(
            Layer(width, settings.pair_features, turns=chemistry) for _ in range(settings.layers)
        )
        kinds = CHEMISTRY.values() if chemistry else ()
        self.chemistry = nn.ModuleList(nn.Embedding(len(words), width) for words in kinds)
        self.pair_kinds = nn.Embedding(len(PAIR_KINDS), settings.pair_features) if chemistry else None

    def forward(
        self, x: Float[Tensor, "atoms 3"], c_noise: Float[Tensor, " conformers"], graph: MoleculeGraph
    ) -> Float[Tensor, "atoms 3"]:
        h = self.position(graph.residue_position) + self.noise(noise_features(c_noise))[graph.conformer]
        for name, table in self.embeddings.items():
            h = h + table(getattr(graph, name))
        for column, table in enumerate(self.chemistry):
            h = h + table(graph.chemistry[:, column])
        distance = _pair_geometry(x, graph)[1]
        pair = self.bonds(graph.bond_distance) + self.start(torch.cat([self.radial(distance), distance], dim=-1))
        if self.pair_kinds is not None:
            pair = pair + self.pair_kinds(graph.pair_kind)
        moved, vectors = x, x.new_zeros(len(x), 2 * _VECTORS, 3)
        for layer in self.layers:
            h, pair, vectors, moved = layer(h, pair, vectors, moved, graph, self.radial)
        return moved - x


class Layer(nn.Module):
    """One round of messages. Atoms carry invariant features h and vectors v^c, pairs carry features e.

    m_ij = φ(e_ij + A (h_i + h_j) + G [radial(d_ij), torsion_ij]) = m_ji;  e_ij ← e_ij + m_ij
    v_i^c ← v_i^c + Σ_j a^c(m_ij) r_ij with r_ij = (x_i − x_j)/(d_ij + 1)/√N, for a few channels c
    h_i ← h_i + ψ(h_i, Σ_j g(m_ij) m_ij, u·u, u·w, (u^c × w^c)·u^{c+1}, signed volume_i), (u, w) the halves of v
    x_i ← x_i + Σ_j b(m_ij) r_ij + Σ_c s^c(h_i) u_i^c × w_i^c

    Messages are symmetric, so each pair is worked out once. The cross products are what can drive a stereocentre out of
    its plane to the right side: where it is nearly flat, all difference vectors lie in the plane.

    ``turns``: a stereocentre o with neighbours a, b, c also moves along their normal n, (b − a) × (c − a) over both
    lengths: x_o ← x_o + p n and x_a,b,c ← x_a,b,c + q n, with p, q = tanh(linear(h_o, (a − o)·n)). The height (a − o)·n
    has the sign of the signed volume, so that p and q turn its hand directly. They are bounded: layers that push one
    another along these normals left the finite numbers. Peptides do without, since their atoms have names, which tell
    a from b from c.
    """

    def __init__(self, width: int, pair_width: int, *, turns: bool) -> None:
        super().__init__()
        self.atom_to_pair = nn.Linear(width, pair_width)
        self.distances = nn.Linear(_DISTANCE_FEATURES, pair_width, bias=False)
        self.torsions = nn.Linear(2, pair_width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(pair_width, pair_width), nn.SiLU())
        self.pair_gates = nn.Linear(pair_width, 2 + 2 * _VECTORS)
        self.volume = nn.Linear(1, width, bias=False)
        self.update = nn.Sequential(
            nn.Linear(width + pair_width + 3 * _VECTORS, width), nn.SiLU(), nn.Linear(width, width + _VECTORS)
        )
        self.turn = nn.Linear(width + 1, 2) if turns else None

    def forward(
        self,
        h: Float[Tensor, "atoms width"],
        pair: Float[Tensor, "pairs pair_width"],
        vectors: Float[Tensor, "atoms channels 3"],
        x: Float[Tensor, "atoms 3"],
        graph: MoleculeGraph,
        radial: nn.Module,
    ) -> tuple[
        Float[Tensor, "atoms width"],
        Float[Tensor, "pairs pair_width"],
        Float[Tensor, "atoms channels 3"],
        Float[Tensor, "atoms 3"],
    ]:
        h = h.index_add(0, graph.stereocentres[:, 0], self.volume(_signed_volumes(x, graph)))
        difference, distance = _pair_geometry(x, graph)
        ends = self.atom_to_pair(h)
        seen = pair + self.distances(torch.cat([radial(distance), distance], dim=-1))
        seen = seen + ends.index_select(0, graph.first) + ends.index_select(0, graph.second)
        seen = seen.index_add(0, graph.torsion_pair, self.torsions(_torsion_features(x, graph)))
        message = self.message(seen)
        gates = self.pair_gates(message)
        pulls = (gates[:, 1:, None] * (difference / (distance + 1.0))[:, None, :]).flatten(1)
        scale = graph.conformer_atoms.rsqrt()[graph.conformer, None]
        pulled = (_sum_to_atoms(pulls, graph, sign=-1) * scale).unflatten(-1, (-1, 3))
        kept = torch.sigmoid(gates[:, :1]) * message
        gathered = _sum_to_atoms(kept, graph, sign=1) * scale
        vectors = vectors + pulled[:, 1:]
        u, w = vectors[:, :_VECTORS], vectors[:, _VECTORS:]
        cross = torch.linalg.cross(u, w)
        invariants = [(u * u).sum(-1), (u * w).sum(-1), (cross * u.roll(1, dims=-2)).sum(-1)]
        change = self.update(torch.cat([h, gathered, *invariants], dim=-1))
        moved = x + pulled[:, 0] + (change[:, -_VECTORS:, None] * cross).sum(dim=-2)
        h = h + change[:, :-_VECTORS]
        if self.turn is not None:
            centre, *neighbours = graph.stereocentres.unbind(-1)
            normal, height = _oriented_normals(x, graph)
            push = torch.tanh(self.turn(torch.cat([h.index_select(0, centre), height], dim=-1)))
            push = push[..., None] * normal[:, None, :]
            moved = moved.index_add(0, centre, push[:, 0])
            for atom in neighbours:
                moved = moved.index_add(0, atom, push[:, 1])
        return h, pair + message, vectors, moved


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


def _oriented_normals(
    x: Float[Tensor, "atoms 3"], graph: MoleculeGraph
) -> tuple[Float[Tensor, "centres 3"], Float[Tensor, "centres 1"]]:
    """n = (b − a) × (c − a) of each stereocentre's neighbours over the lengths of the two, and (a − o)·n."""
    o, a, b, c = (x.index_select(0, atom) for atom in graph.stereocentres.unbind(-1))
    u, v = b - a, c - a
    norms = u.square().sum(-1, keepdim=True) * v.square().sum(-1, keepdim=True)
    normal = torch.linalg.cross(u, v) / torch.sqrt(norms + _EPSILON)
    return normal, ((a - o) * normal).sum(-1, keepdim=True)


def _signed_volumes(x: Float[Tensor, "atoms 3"], graph: MoleculeGraph) -> Float[Tensor, "centres 1"]:
    """Signed volume of each stereocentre over the product of its bond lengths."""
    o, a, b, c = (x.index_select(0, atom) for atom in graph.stereocentres.unbind(-1))
    u, v, w = a - o, b - o, c - o
    volume = (u * torch.linalg.cross(v, w)).sum(-1, keepdim=True)
    norms = u.square().sum(-1, keepdim=True) * v.square().sum(-1, keepdim=True) * w.square().sum(-1, keepdim=True)
    return volume / torch.sqrt(norms + _EPSILON)
