"""Model energies of a whole pool: the bound by the denoising error, or −log p by the flow."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ancdiff.config import DiffusionSettings, LineSettings
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.energy import likelihood_energy, shared_noise
from ancdiff.diffusion.likelihood import conformers_at_once, exact_trace, hutchinson_trace, log_density
from ancdiff.diffusion.noise import karras_sigma
from ancdiff.diffusion.superpose import lay_upon_first
from ancdiff.threads import side_by_side

# Pairs of atoms that go through the network at once: on a CPU their features stay in a core's cache.
_PAIRS = {"cpu": 16_384, "cuda": 4_194_304}
_RHO = 7.0  # bend of the flow's noise levels


def pool_energies(
    denoise: Denoise,
    positions_nm: Float[Tensor, "conformers atoms 3"],
    align: LineSettings,
    diffusion: DiffusionSettings,
    sigma_data_nm: float,
    seed: int,
    *,
    threads: int = 1,
) -> Float[np.ndarray, " conformers"]:
    """E_θ in nats of a whole pool (``align.anchor_energy``): the bound, or −log p_θ by the flow.

    The bound has one set of noise for all, so that differences are sharp. E_θ does not change when a conformer is
    turned, but the same noise is another one to a turned conformer: all are laid upon the first. Draws from ``seed``.
    """
    generator = torch.Generator(positions_nm.device).manual_seed(seed)
    low = diffusion.sigma_min * sigma_data_nm
    pairs = _PAIRS[positions_nm.device.type]
    if align.anchor_energy == "bound":
        high = align.energy_sigma_max * sigma_data_nm
        pairs //= align.anchor_noise_levels
        shared = shared_noise(
            align.anchor_noise_levels,
            positions_nm.shape[1],
            sigma_min_nm=low,
            sigma_max_nm=high,
            generator=generator,
            antithetic=align.antithetic,
        )

        def by_the_bound(x: Float[Tensor, "some atoms 3"]) -> Float[Tensor, " some"]:
            return likelihood_energy(
                denoise, x, shared, sigma_min_nm=low, sigma_max_nm=high, superpose=diffusion.superpose
            )

        energy_of = by_the_bound
    else:
        high = diffusion.sigma_max * sigma_data_nm
        levels = karras_sigma(align.anchor_flow_steps, sigma_min_nm=low, sigma_max_nm=high, rho=_RHO)
        energy_of = _flow_energy(denoise, levels, align, sigma_data_nm, generator)

    # The flow's probes are drawn chunk after chunk; the bound draws nothing any more, and its chunks go side by side.
    workers = threads if align.anchor_energy == "bound" and positions_nm.device.type == "cpu" else 1
    chunks = lay_upon_first(positions_nm).split(conformers_at_once(positions_nm.shape[1], pairs))
    with tqdm(total=len(positions_nm), desc="model energies", unit="conformer", mininterval=2.0) as bar:
        energies = []
        for energy in side_by_side(torch.no_grad()(energy_of), chunks, workers):
            energies.append(energy)
            bar.update(len(energy))
    return torch.cat(energies).double().cpu().numpy()


def _flow_energy(
    denoise: Denoise,
    levels_nm: Float[Tensor, " levels"],
    align: LineSettings,
    sigma_data_nm: float,
    generator: torch.Generator,
) -> Callable[[Float[Tensor, "some atoms 3"]], Float[Tensor, " some"]]:
    """−log p_θ of conformers, of the density that is sampled: starts have the data's spread beside σ_max.

    ``levels_nm`` fall and end with 0.
    """
    rising = levels_nm[:-1].flip(0)
    exact = align.anchor_energy == "exact"
    trace = exact_trace() if exact else hutchinson_trace(align.anchor_probes, generator=generator)

    def by_the_flow(x: Float[Tensor, "some atoms 3"]) -> Float[Tensor, " some"]:
        return -log_density(denoise, x, rising, trace=trace, order=4, data_spread_nm=sigma_data_nm).nats

    return by_the_flow
