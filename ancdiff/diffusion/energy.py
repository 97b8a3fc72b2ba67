"""The denoising error of a conformer: the training loss, and the model's own energy in nats."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.diffusion import Denoise
from ancdiff.diffusion.noise import TrainingLevels, centred_noise, stratified_log_uniform_sigma
from ancdiff.diffusion.superpose import superpose as superpose_on


@dataclass(frozen=True, eq=False)
class Noised:
    """Noisy conformers of one molecule, and what a denoiser should make of them."""

    noisy_nm: Float[Tensor, "batch atoms 3"]
    sigma_nm: Float[Tensor, " batch"]
    target_nm: Float[Tensor, "batch atoms 3"]

    def __len__(self) -> int:
        return len(self.sigma_nm)

    def chunk(self, parts: int) -> list["Noised"]:
        """At most ``parts`` pieces of about the same size."""
        pieces = (tensor.chunk(parts) for tensor in (self.noisy_nm, self.sigma_nm, self.target_nm))
        return [Noised(*tensors) for tensors in zip(*pieces, strict=True)]

    def error(self, denoised_nm: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, " batch"]:
        """‖D(x + σε; σ) − R x‖², in nm², summed over atoms."""
        return (denoised_nm - self.target_nm).square().sum(dim=(-1, -2))


def noised(
    clean_nm: Float[Tensor, "batch atoms 3"],
    sigma_nm: Float[Tensor, " batch"],
    noise: Float[Tensor, "batch atoms 3"],
    *,
    superpose: bool,
) -> Noised:
    """x + σε, and the target R x.

    R superposes x on x + σε where ``superpose`` (as AlphaFold 3 does in training), else R = 1. The turn that the noise
    gives to a conformer as a whole says nothing about its shape; taking it out of the target leaves a cleaner signal.
    """
    noisy = clean_nm + sigma_nm[:, None, None] * noise
    return Noised(noisy, sigma_nm, superpose_on(clean_nm, noisy) if superpose else clean_nm)


def training_noise(
    clean_nm: Float[Tensor, "batch atoms 3"],
    levels: TrainingLevels,
    *,
    superpose: bool,
    generator: torch.Generator,
) -> Noised:
    """Centred conformers under training noise. Draws σ and ε from ``generator``."""
    sigma = levels.draw(len(clean_nm), generator=generator)
    noise = centred_noise(tuple(clean_nm.shape), generator=generator)
    return noised(clean_nm, sigma, noise, superpose=superpose)


def denoising_loss(
    batch: Noised, denoised_nm: Float[Tensor, "batch atoms 3"], *, sigma_data_nm: float
) -> Float[Tensor, " batch"]:
    """EDM loss per conformer, λ(σ) ‖D(x + σε; σ) − R x‖² / 3(N − 1) with λ = (σ² + σ_d²)/(σ σ_d)².

    Reference: Karras et al. 2022 (arXiv 2206.00364), table 1.
    """
    sigma, atoms = batch.sigma_nm, denoised_nm.shape[1]
    weight = (sigma**2 + sigma_data_nm**2) / (sigma * sigma_data_nm) ** 2
    return weight * batch.error(denoised_nm) / (3 * (atoms - 1))


@dataclass(frozen=True, eq=False)
class NoiseBatch:
    """Noise levels and noise that all conformers of a group share.

    Differences of model energies are what counts in a group, and what the conformers share cancels in them.
    ``antithetic``: levels stand in pairs of one σ with ε and −ε. The part of the error that is linear in ε, which
    depends on the conformer and so does not cancel in differences, is then averaged away.
    """

    sigma_nm: Float[Tensor, " levels"]
    noise: Float[Tensor, "levels atoms 3"]
    antithetic: bool = False


def shared_noise(
    levels: int,
    atoms: int,
    *,
    sigma_min_nm: float,
    sigma_max_nm: float,
    generator: torch.Generator,
    antithetic: bool = False,
) -> NoiseBatch:
    """Stratified levels, uniform in ln σ, with one centred noise each. Draws from ``generator``.

    With ``antithetic`` there are half as many strata, each with its noise and the opposite noise: the same cost.

    Raises:
        ValueError: an odd number of levels cannot stand in pairs.
    """
    if antithetic and levels % 2:
        raise ValueError(f"antithetic noise comes in pairs; {levels} levels are odd")
    strata = levels // 2 if antithetic else levels
    sigma = stratified_log_uniform_sigma(
        strata, sigma_min_nm=sigma_min_nm, sigma_max_nm=sigma_max_nm, generator=generator
    )
    noise = centred_noise((strata, atoms, 3), generator=generator)
    if not antithetic:
        return NoiseBatch(sigma, noise)
    paired = torch.stack([noise, -noise], dim=1).flatten(0, 1)
    return NoiseBatch(sigma.repeat_interleave(2), paired, antithetic=True)


def noise_prediction_errors(
    denoise: Denoise, clean_nm: Float[Tensor, "conformers atoms 3"], shared: NoiseBatch, *, superpose: bool
) -> Float[Tensor, "conformers levels"]:
    """‖ε − ε_θ‖² = ‖D_θ(x + σε; σ) − x‖² / σ² of each conformer at each shared level."""
    conformers, levels = len(clean_nm), len(shared.sigma_nm)
    batch = noised(
        clean_nm.repeat_interleave(levels, dim=0),
        shared.sigma_nm.repeat(conformers),
        shared.noise.repeat(conformers, 1, 1),
        superpose=superpose,
    )
    return batch.error(denoise(batch.noisy_nm, batch.sigma_nm)).reshape(conformers, levels) / shared.sigma_nm**2


def stratum_errors(
    denoise: Denoise, clean_nm: Float[Tensor, "conformers atoms 3"], shared: NoiseBatch, *, superpose: bool
) -> Float[Tensor, "conformers strata"]:
    """`noise_prediction_errors`, the two of an antithetic pair averaged."""
    errors = noise_prediction_errors(denoise, clean_nm, shared, superpose=superpose)
    return errors.unflatten(1, (-1, 2)).mean(dim=2) if shared.antithetic else errors


def likelihood_terms(
    denoise: Denoise,
    clean_nm: Float[Tensor, "conformers atoms 3"],
    shared: NoiseBatch,
    *,
    sigma_min_nm: float,
    sigma_max_nm: float,
    superpose: bool,
) -> Float[Tensor, "conformers strata"]:
    """The terms of `likelihood_energy`, one of each stratum of noise levels, whose mean it is; nats."""
    errors = stratum_errors(denoise, clean_nm, shared, superpose=superpose)
    return math.log(sigma_max_nm / sigma_min_nm) * errors


def likelihood_energy(
    denoise: Denoise,
    clean_nm: Float[Tensor, "conformers atoms 3"],
    shared: NoiseBatch,
    *,
    sigma_min_nm: float,
    sigma_max_nm: float,
    superpose: bool,
) -> Float[Tensor, " conformers"]:
    """Model energy in nats, E_θ(x) = ∫ E_ε ‖D_θ(x + σε; σ) − x‖² / σ² d ln σ, so that −log p_θ(x) ≤ E_θ(x) + const.

    The integral runs over [σ_min, σ_max], within which the shared levels are uniform in ln σ.
    Reference: Kingma et al. 2021 (arXiv 2107.00630), eq. 17, for variance-exploding noise.
    """
    terms = likelihood_terms(
        denoise, clean_nm, shared, sigma_min_nm=sigma_min_nm, sigma_max_nm=sigma_max_nm, superpose=superpose
    )
    return terms.mean(dim=1)


def paper_terms(
    denoise: Denoise,
    clean_nm: Float[Tensor, "conformers atoms 3"],
    shared: NoiseBatch,
    *,
    scale: float,
    superpose: bool,
) -> Float[Tensor, "conformers strata"]:
    """The terms of `paper_energy`, one of each stratum of noise levels, whose mean it is."""
    errors = stratum_errors(denoise, clean_nm, shared, superpose=superpose)
    return scale * errors / (3 * (clean_nm.shape[1] - 1))


def paper_energy(
    denoise: Denoise,
    clean_nm: Float[Tensor, "conformers atoms 3"],
    shared: NoiseBatch,
    *,
    scale: float,
    superpose: bool,
) -> Float[Tensor, " conformers"]:
    """The EBA paper's model energy, E_θ(x) = E_{t,ε}[T ‖ε − ε_θ(x_t, t)‖²], with the mean over 3(N − 1) coordinates.

    Its zero and its unit have no meaning: at T = 5000 the aligned model does not aim at e^{−βE}.
    Reference: Lu et al. 2025 (arXiv 2505.24203), eq. 11.
    """
    return paper_terms(denoise, clean_nm, shared, scale=scale, superpose=superpose).mean(dim=1)
