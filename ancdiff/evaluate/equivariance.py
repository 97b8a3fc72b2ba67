"""How far a trained model is from turning, shifting and permuting its output with its input."""

from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.diffusion.noise import centre
from ancdiff.molecules import Ensemble

NOISE = (0.03, 0.3, 1.0, 3.0)
"""Noise levels at which it is tried, in units of the data's spread."""
_CONFORMERS = 8
_TRIALS = 4


@torch.no_grad()
def equivariance_error(denoiser: Denoiser, ensemble: Ensemble, dtype: torch.dtype, generator: torch.Generator) -> float:
    """max ‖D(π(x Q) + t; σ) − π(D(x; σ) Q)‖∞ / max ‖D(x; σ)‖∞ over conformers, noise, and random Q, t and π.

    Q is a proper rotation, t as long as the data's spread, and π any permutation: the particles must be alike. D gives
    centred output, so that shifts leave it as it is. Draws from ``generator``; ``denoiser`` stays as it is.
    """
    spread = denoiser.sigma_data_nm
    graph = molecule_graph(ensemble.molecule).to(dtype)
    denoise = deepcopy(denoiser).to(dtype).on(graph)
    chosen = ensemble.positions_nm[np.linspace(0, len(ensemble) - 1, _CONFORMERS).astype(int)]
    clean = centre(torch.as_tensor(chosen, dtype=dtype))
    worst = 0.0
    for level in NOISE:
        sigma = torch.full((len(clean),), level * spread, dtype=dtype)
        x = clean + level * spread * centre(torch.randn(clean.shape, generator=generator, dtype=dtype))
        expected = denoise(x, sigma)
        for _ in range(_TRIALS):
            turn, shift = _rotation(generator, dtype), spread * torch.randn(3, generator=generator, dtype=dtype)
            order = torch.randperm(x.shape[1], generator=generator)
            error = (denoise(x[:, order] @ turn + shift, sigma) - expected[:, order] @ turn).abs().max()
            worst = max(worst, float(error / expected.abs().max()))
    return worst


def _rotation(generator: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "3 3"]:
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    q[:, 0] *= torch.linalg.det(q)
    return q.to(dtype)
