"""Compounds on the training device in dense blocks of equal size, and the denoising loss of a batch of them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ancdiff.compounds import ATOMIC_NUMBERS, Compounds
from ancdiff.config import DiffusionSettings
from ancdiff.denoiser.compounds import CompoundDenoiser
from ancdiff.diffusion.noise import centre, lognormal_sigma, state_noise
from ancdiff.diffusion.superpose import superpose

_TYPE_OF = np.full(256, -1)
_TYPE_OF[list(ATOMIC_NUMBERS)] = range(len(ATOMIC_NUMBERS))


@dataclass(frozen=True, eq=False)
class SizeBlock:
    """All compounds with one number of atoms; positions are centred."""

    positions_nm: Float[Tensor, "compounds atoms 3"]
    types: Int[Tensor, "compounds atoms"]


@dataclass(frozen=True, eq=False)
class CompoundData:
    """A set of compounds, ready to train on."""

    blocks: tuple[SizeBlock, ...]

    @property
    def counts(self) -> Int[Tensor, " blocks"]:
        return torch.tensor([len(block.types) for block in self.blocks])


def load_data(compounds: Compounds, device: torch.device) -> CompoundData:
    """Blocks of equal size on a device."""
    return CompoundData(
        tuple(
            SizeBlock(
                centre(torch.as_tensor(block.positions_nm)).to(device),
                torch.as_tensor(_TYPE_OF[block.atomic_numbers]).to(device),
            )
            for block in compounds.blocks()
        )
    )


def spread_nm(compounds: Compounds) -> float:
    """σ_data: root mean square of a coordinate about the centroid of its compound, averaged over compounds, nm."""
    variances = [
        block.positions_nm.astype(np.float64).var(axis=1).sum(-1) * n / (3 * (n - 1))
        for block in compounds.blocks()
        for n in [block.positions_nm.shape[1]]
    ]
    return float(np.sqrt(np.concatenate(variances).mean()))


def type_frequencies(compounds: Compounds) -> tuple[float, ...]:
    """Share of each atom type among all atoms."""
    counts = np.bincount(_TYPE_OF[compounds.atomic_numbers], minlength=len(ATOMIC_NUMBERS))
    return tuple(float(share) for share in counts / counts.sum())


def batch_loss(
    denoiser: CompoundDenoiser,
    data: CompoundData,
    diffusion: DiffusionSettings,
    *,
    batch_size: int,
    blocks: int,
    type_weight: float,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Denoising loss of a batch of compounds in ``blocks`` dense blocks of one size each; nothing is padded.

    Sizes are drawn as the data have them, one from each of as many strata. Draws from ``generator``.
    """
    cumulative = data.counts.cumsum(0).to(torch.float32)
    share = max(1, batch_size // blocks)
    drawn = (torch.arange(blocks) + torch.rand(blocks, generator=generator, device=generator.device).cpu()) / blocks
    losses = []
    for place in torch.searchsorted(cumulative, drawn * cumulative[-1], right=True).tolist():
        block = data.blocks[min(place, len(data.blocks) - 1)]
        index = torch.randint(len(block.types), (share,), generator=generator, device=generator.device)
        chosen = SizeBlock(block.positions_nm[index], block.types[index])
        losses.append(block_loss(denoiser, chosen, diffusion, generator))
    positions, types = torch.stack(losses).mean(dim=0)
    logged = {"position_loss": positions.item(), "type_loss": types.item()}
    return positions + type_weight * types, logged


def block_loss(
    denoiser: CompoundDenoiser, block: SizeBlock, diffusion: DiffusionSettings, generator: torch.Generator
) -> Float[Tensor, "2"]:
    """Loss of the positions and of the types, means over compounds. Draws noise from ``generator``.

    Positions: λ(σ) ‖D_x − R x‖²/3(N − 1) with EDM's weight λ. Types: cross-entropy, whose optimum is the posterior
    probability that the denoiser needs.
    Reference: Karras et al. 2022 (arXiv 2206.00364), table 1; Dieleman et al. 2022 (arXiv 2211.15089), section 3.
    """
    spread = denoiser.sigma_data_nm
    state = denoiser.state(block.positions_nm, block.types)
    batch, atoms, _ = state.shape
    sigma = lognormal_sigma(
        batch,
        median_nm=diffusion.training_median * spread,
        log_width=diffusion.training_log_width,
        generator=generator,
    )
    noisy = state + sigma[:, None, None] * state_noise(tuple(state.shape), generator=generator)
    positions_nm, logits = denoiser.posterior(noisy, sigma)
    target = superpose(block.positions_nm, noisy[..., :3]) if diffusion.superpose else block.positions_nm
    weight = (sigma**2 + spread**2) / (sigma * spread) ** 2
    error = weight * (positions_nm - target).square().sum(dim=(-1, -2)) / (3 * (atoms - 1))
    entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), block.types.flatten())
    return torch.stack([error.mean(), entropy])
