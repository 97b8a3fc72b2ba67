"""Noise, preconditioning, samplers and model energies: pure functions of a denoiser.

Noise is variance exploding, x_σ = x + σ ε, with data and noise in the subspace of zero centre of mass
(dimension 3(N − 1)). A denoiser is any callable D(x_σ, σ) ≈ E[x | x_σ].
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Denoise(Protocol):
    """D(x_σ, σ): the clean conformers expected behind noisy ones of one molecule.

    A state has three channels (positions), or more where atom types are denoised too.
    """

    def __call__(
        self, noisy_nm: Float[Tensor, "batch atoms channels"], sigma_nm: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch atoms channels"]: ...
