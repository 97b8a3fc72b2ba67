"""Noise levels of a sampler."""

from jaxtyping import Float
from torch import Tensor

from ancdiff.config import DiffusionSettings, SampleSettings
from ancdiff.diffusion.noise import karras_sigma
from ancdiff.diffusion.variance_preserving import vp_sigma_nm


def noise_levels(
    settings: SampleSettings, diffusion: DiffusionSettings, *, sigma_data_nm: float
) -> Float[Tensor, " levels"]:
    """Descending noise of a sampler: EDM's levels, or those of times bent alike (process: vp)."""
    if diffusion.process == "vp":
        return vp_sigma_nm(settings.steps, diffusion, sigma_data_nm=sigma_data_nm, rho=settings.rho)
    return karras_sigma(
        settings.steps,
        sigma_min_nm=diffusion.sigma_min * sigma_data_nm,
        sigma_max_nm=diffusion.sigma_max * sigma_data_nm,
        rho=settings.rho,
    )
