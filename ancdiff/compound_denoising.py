"""Compounds on the training device in dense blocks of equal size, and the denoising loss of a batch of them."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ancdiff.compounds import ATOMIC_NUMBERS, Compounds
from ancdiff.config import DiffusionSettings, PretrainSettings
from ancdiff.denoiser.compounds import CompoundDenoiser
from ancdiff.denoising import training_levels
from ancdiff.diffusion.noise import centre, state_noise
from ancdiff.diffusion.superpose import superpose
from ancdiff.training import LossPart

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


def batch_parts(
    denoiser: CompoundDenoiser,
    data: CompoundData,
    settings: PretrainSettings,
    diffusion: DiffusionSettings,
    generator: torch.Generator,
    *,
    parts: int = 1,
) -> list[LossPart[CompoundDenoiser]]:
    """The loss of a batch of compounds, in ``settings.blocks`` dense blocks of one size each; nothing is padded.

    The blocks are shared out to ``parts`` (threads) by their pairs of atoms. Sizes are drawn as the data have them, one
    from each of as many strata. Draws from ``generator``.
    """
    cumulative, blocks = data.counts.cumsum(0).to(torch.float32), settings.blocks
    share = max(1, settings.batch_size // blocks)
    drawn = (torch.arange(blocks) + torch.rand(blocks, generator=generator, device=generator.device).cpu()) / blocks
    noised = []
    for place in torch.searchsorted(cumulative, drawn * cumulative[-1], right=True).tolist():
        block = data.blocks[min(place, len(data.blocks) - 1)]
        index = torch.randint(len(block.types), (share,), generator=generator, device=generator.device)
        chosen = SizeBlock(block.positions_nm[index], block.types[index])
        noised.append(noisy_block(denoiser, chosen, diffusion, generator))
    dealt: list[list[NoisyBlock]] = [[] for _ in range(min(parts, blocks))]
    for block in reversed(noised):  # largest first, each to the part with the least work
        min(dealt, key=lambda mine: sum(b.types.shape[1] ** 2 for b in mine)).append(block)
    return [partial(_part_loss, noised=mine, type_weight=settings.type_weight, blocks=blocks) for mine in dealt]


def _part_loss(
    denoiser: CompoundDenoiser, *, noised: "list[NoisyBlock]", type_weight: float, blocks: int
) -> tuple[Tensor, dict[str, float]]:
    positions, types = torch.stack([block_loss(denoiser, block) for block in noised]).sum(dim=0)
    return (positions + type_weight * types) / blocks, {}


@torch.no_grad()
def validation_loss(
    denoiser: CompoundDenoiser,
    data: CompoundData,
    settings: PretrainSettings,
    diffusion: DiffusionSettings,
    *,
    seed: int,
    compounds: int = 512,
) -> float:
    """Loss on held-out compounds, with the same compounds and noise each time."""
    generator = torch.Generator(data.blocks[0].types.device).manual_seed(seed)
    fixed = settings.model_copy(update={"batch_size": compounds, "blocks": 16})
    (whole,) = batch_parts(denoiser, data, fixed, diffusion, generator)
    return float(whole(denoiser)[0])


@dataclass(frozen=True, eq=False)
class NoisyBlock:
    """Compounds of one size under noise, and what a denoiser should find behind it."""

    noisy_nm: Float[Tensor, "compounds atoms channels"]
    sigma_nm: Float[Tensor, " compounds"]
    target_nm: Float[Tensor, "compounds atoms 3"]
    types: Int[Tensor, "compounds atoms"]


def noisy_block(
    denoiser: CompoundDenoiser, block: SizeBlock, diffusion: DiffusionSettings, generator: torch.Generator
) -> NoisyBlock:
    """A block under training noise. Draws from ``generator``."""
    state = denoiser.state(block.positions_nm, block.types)
    sigma = training_levels(diffusion, denoiser.sigma_data_nm).draw(len(state), generator=generator)
    noisy = state + sigma[:, None, None] * state_noise(tuple(state.shape), generator=generator)
    target = superpose(block.positions_nm, noisy[..., :3]) if diffusion.superpose else block.positions_nm
    return NoisyBlock(noisy, sigma, target, block.types)


def block_loss(denoiser: CompoundDenoiser, block: NoisyBlock) -> Float[Tensor, "2"]:
    """Loss of the positions and of the types, means over compounds.

    Positions: λ(σ) ‖D_x − R x‖²/3(N − 1) with EDM's weight λ. Types: cross-entropy, whose optimum is the posterior
    probability that the denoiser needs.
    Reference: Karras et al. 2022 (arXiv 2206.00364), table 1; Dieleman et al. 2022 (arXiv 2211.15089), section 3.
    """
    spread, sigma, atoms = denoiser.sigma_data_nm, block.sigma_nm, block.types.shape[1]
    positions_nm, logits = denoiser.posterior(block.noisy_nm, sigma)
    weight = (sigma**2 + spread**2) / (sigma * spread) ** 2
    error = weight * (positions_nm - block.target_nm).square().sum(dim=(-1, -2)) / (3 * (atoms - 1))
    entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), block.types.flatten())
    return torch.stack([error.mean(), entropy])
