"""Muon in the precision of its gradients: momentum whose matrices are made orthogonal before a step.

PyTorch's own works in bfloat16, which processors without instructions for it emulate: on such a CPU half of a small
network's training step was the optimiser's. Here matrices of one shape are worked on as a stack, in float32.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)  # p(s) = as + bs³ + cs⁵, steep at 0: singular values come near 1, to 0.7 … 1.2
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7
_ADAMS_RMS = 0.2  # of a step of AdamW, over the learning rate


class Muon(torch.optim.Optimizer):
    """m ← μm + (1 − μ)g;  W ← (1 − ηλ)W − 0.2 √max(rows, columns) η orth((1 − μ)g + μm), for matrices W.

    orth(M) = UVᵀ of M = USVᵀ, nearly. The scale gives a step the size of AdamW's, so that one learning rate η serves
    both.

    Raises:
        ValueError: a parameter is no matrix.

    References:
        Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Liu et al. 2025 (arXiv 2502.16982), eq. 4.
    """

    def __init__(
        self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        matrices = list(matrices)
        if any(matrix.ndim != 2 for matrix in matrices):
            raise ValueError("Muon moves matrices: leave vectors and scalars to another optimiser")
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move all matrices that have a gradient."""
        assert closure is None, "gradients are worked out before the step"
        for group in self.param_groups:
            of_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    of_shape[matrix.shape].append(matrix)
            for shape, matrices in of_shape.items():
                moved = orthogonal(torch.stack([self._momentum(m, group["momentum"]) for m in matrices]))
                size = _ADAMS_RMS * math.sqrt(max(shape)) * group["lr"]
                for matrix, direction in zip(matrices, moved, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=size)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        """Nesterov's: the gradient, drawn to the average that it has just moved."""
        assert matrix.grad is not None
        state = self.state[matrix]
        average = state.setdefault("momentum_buffer", torch.zeros_like(matrix))
        average.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


def orthogonal(matrices: Float[Tensor, "stack rows columns"]) -> Float[Tensor, "stack rows columns"]:
    """The matrices with singular values near 1, by five Newton–Schulz iterations of a quintic; zeros stay zeros."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_SMALLEST_NORM)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
