"""The SE(3)-equivariant denoiser of compounds: positions and atom types together, no graph given.

A compound is a state of eight channels for each atom: three of position and five of type, its one-hot times a scale
that makes it a length, so that one noise level serves all (as in Hoogeboom et al. 2022, arXiv 2203.17003). Positions
take EDM's preconditioning. For types the exact form is known: of a one-hot s e_k under Gaussian noise the
evidence for k is s h_k/σ², to which the network adds what the other atoms say.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ancdiff.compounds import ATOMIC_NUMBERS
from ancdiff.config import DenoiserSettings
from ancdiff.denoiser.embedding import NOISE_FEATURES, RadialFunctions, noise_features
from ancdiff.diffusion.noise import centre

N_TYPES = len(ATOMIC_NUMBERS)
CHANNELS = 3 + N_TYPES

_COARSE = (8, 0.0, 6.0)
_FINE = (16, 0.4, 2.0)
_EPSILON = 1e-4
_MAX_EVIDENCE = 30.0  # e^30 is certain; beyond it the differences would only cost precision

State = Float[Tensor, "batch atoms channels"]


class CompoundDenoiser(nn.Module):
    """D(z; σ) of states z = (x, h): positions c_skip x + c_out F_x, types s · softmax(s h/σ² + ln f + F_h).

    ``sigma_data_nm`` is the spread of the positions, ``settings.type_scale`` the s in units of it, ``frequencies`` the
    share f of each atom type in the data. Centred noise on the positions is taken for granted.
    Reference: Karras et al. 2022 (arXiv 2206.00364), eq. 7 and table 1; Dieleman et al. 2022 (arXiv 2211.15089) for
    types as posterior probabilities.
    """

    log_frequencies: Tensor

    def __init__(self, settings: DenoiserSettings, *, sigma_data_nm: float, frequencies: Sequence[float]) -> None:
        super().__init__()
        self.settings, self.sigma_data_nm = settings, sigma_data_nm
        self.frequencies = tuple(frequencies)
        self.network = CompoundNetwork(settings)
        shares = torch.tensor(self.frequencies).clamp(min=1e-6)
        self.register_buffer("log_frequencies", torch.log(shares / shares.sum()), persistent=False)

    @property
    def type_length_nm(self) -> float:
        """The length s of a one-hot."""
        return self.settings.type_scale * self.sigma_data_nm

    def forward(self, noisy_nm: State, sigma_nm: Float[Tensor, " batch"]) -> State:
        positions_nm, logits = self.posterior(noisy_nm, sigma_nm)
        return torch.cat([positions_nm, self.type_length_nm * torch.softmax(logits, dim=-1)], dim=-1)

    def posterior(
        self, noisy_nm: State, sigma_nm: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch atoms 3"], Float[Tensor, "batch atoms types"]]:
        """Expected positions (centred, nm) and log-odds of the types behind noisy states."""
        sigma = sigma_nm[:, None, None]
        total = torch.sqrt(sigma**2 + self.sigma_data_nm**2)
        c_skip, c_out, c_in = (self.sigma_data_nm / total) ** 2, sigma * self.sigma_data_nm / total, 1 / total
        c_noise = 0.25 * torch.log(sigma_nm / self.sigma_data_nm)
        noisy = centre(noisy_nm[..., :3])
        evidence = self.type_length_nm * noisy_nm[..., 3:] / sigma**2 + self.log_frequencies
        evidence = (evidence - evidence.amax(-1, keepdim=True)).clamp(min=-_MAX_EVIDENCE)
        moved, said = self.network(c_in * noisy, torch.softmax(evidence, dim=-1), c_noise)
        return c_skip * noisy + c_out * centre(moved), evidence + said

    def state(self, positions_nm: Float[Tensor, "batch atoms 3"], types: Tensor) -> State:
        """The clean state of compounds from centred positions and type indices."""
        one_hot = nn.functional.one_hot(types, N_TYPES).to(positions_nm.dtype)
        return torch.cat([positions_nm, self.type_length_nm * one_hot], dim=-1)


class CompoundNetwork(nn.Module):
    """F(x, p, c_noise): a displacement and log-odds of types for each atom; x of unit spread, p type probabilities."""

    def __init__(self, settings: DenoiserSettings) -> None:
        super().__init__()
        width, pair_width = settings.features, settings.pair_features
        self.types = nn.Linear(N_TYPES, width)
        self.size = nn.Linear(1, width, bias=False)
        self.noise = nn.Sequential(nn.Linear(NOISE_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.start = nn.Linear(_COARSE[0] + _FINE[0] + 1, pair_width)
        self.radial = RadialFunctions(_COARSE, _FINE)
        self.channels = vector_channels(pair_width)
        self.layers = nn.ModuleList(CompoundLayer(width, pair_width) for _ in range(settings.layers))
        self.read_types = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, N_TYPES)
        )

    def forward(
        self,
        x: Float[Tensor, "batch atoms 3"],
        probabilities: Float[Tensor, "batch atoms types"],
        c_noise: Float[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch atoms 3"], Float[Tensor, "batch atoms types"]]:
        n = x.shape[1]
        first, second = torch.triu_indices(n, n, offset=1, device=x.device)
        one_hot = torch.eye(n, dtype=x.dtype, device=x.device)
        incidence, orientation = one_hot[first] + one_hot[second], one_hot[first] - one_hot[second]
        size = self.size(x.new_full((1,), math.log(n / 18.0)))
        h = self.types(probabilities) + self.noise(noise_features(c_noise))[:, None, :] + size
        distance = _distance(orientation @ x)
        pair = self.start(torch.cat([self.radial(distance), distance], dim=-1))
        vectors = x.new_zeros(len(x), n, 3 * self.channels)
        moved = x
        for layer in self.layers:
            h, pair, vectors, moved = layer(h, pair, vectors, moved, incidence, orientation, self.radial)
        return moved - x, self.read_types(h)


class CompoundLayer(nn.Module):
    """One round of messages; atoms carry invariant features h and vectors v^c, pairs carry features e.

    t_ij^c = (v_i^c − v_j^c)·r_ij, with r_ij = (x_i − x_j)/(d_ij + 1): how a pair lies to both atoms' other pairs
    e_ij ← e_ij + m_ij, m_ij = φ(A(h_i + h_j) + e_ij + G[radial(d_ij), t_ij]) = m_ji
    v_i^c ← v_i^c + Σ_j a^c(m_ij) r_ij/√N
    h_i ← h_i + ψ(h_i, Σ_j g(m_ij) m_ij/√N, u·u, u·w, (u^c × w^c)·u^{c+1}), (u, w) = linear mixtures of v
    x_i ← x_i + Σ_j b(m_ij) r_ij/√N + Σ_c s^c(h_i) u_i^c + k^c(h_i) u_i^c × w_i^c

    The triple product changes sign in a mirror, so the layer is SE(3)- and not O(3)-equivariant.
    """

    def __init__(self, width: int, pair_width: int) -> None:
        super().__init__()
        self.channels = vector_channels(pair_width)
        self.norm = nn.LayerNorm(width)
        self.atom_to_pair = nn.Linear(width, pair_width)
        self.geometry = nn.Linear(_COARSE[0] + _FINE[0] + 1 + self.channels, pair_width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(pair_width, pair_width), nn.SiLU())
        self.pair_gates = nn.Linear(pair_width, 2 + self.channels)
        self.mix = nn.Linear(self.channels, 2 * self.channels, bias=False)
        inputs = width + pair_width + 3 * self.channels
        self.update = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width + 2 * self.channels))

    def forward(
        self,
        h: Float[Tensor, "batch atoms width"],
        pair: Float[Tensor, "batch pairs pair_width"],
        vectors: Float[Tensor, "batch atoms flat"],
        x: Float[Tensor, "batch atoms 3"],
        incidence: Float[Tensor, "pairs atoms"],
        orientation: Float[Tensor, "pairs atoms"],
        radial: nn.Module,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c, scale = self.channels, x.shape[1] ** -0.5
        both = orientation @ torch.cat([x, vectors], dim=-1)  # one product for all differences
        distance = _distance(both[..., :3])
        direction = both[..., :3] / (distance + 1.0)
        along = (both[..., 3:].unflatten(-1, (c, 3)) * direction[..., None, :]).sum(-1)
        geometry = torch.cat([radial(distance), distance, along], dim=-1)
        normed = self.norm(h)
        message = self.message(pair + incidence @ self.atom_to_pair(normed) + self.geometry(geometry))
        gates = self.pair_gates(message)
        pulls = (gates[..., 1:, None] * direction[..., None, :]).flatten(-2) * scale
        gathered = incidence.T @ (torch.sigmoid(gates[..., :1]) * message) * scale
        pulled = orientation.T @ pulls
        vectors = vectors + pulled[..., 3:]
        mixed = self.mix(vectors.unflatten(-1, (c, 3)).transpose(-1, -2)).transpose(-1, -2)
        u, w = mixed[..., :c, :], mixed[..., c:, :]
        cross = torch.linalg.cross(u, w)
        invariants = [(u * u).sum(-1), (u * w).sum(-1), (cross * u.roll(1, dims=-2)).sum(-1)]
        change = self.update(torch.cat([normed, gathered, *invariants], dim=-1))
        shifts = change[..., -2 * c : -c, None] * u + change[..., -c:, None] * cross
        return h + change[..., : -2 * c], pair + message, vectors, x + pulled[..., :3] + shifts.sum(-2)


def vector_channels(pair_width: int) -> int:
    """Vectors that each atom carries: beyond a few they cost more than they tell."""
    return min(16, max(4, pair_width // 4))


def _distance(difference: Float[Tensor, "*axes 3"]) -> Float[Tensor, "*axes 1"]:
    """Length of difference vectors, smooth at zero."""
    return torch.sqrt(difference.square().sum(-1, keepdim=True) + _EPSILON)
