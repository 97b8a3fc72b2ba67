"""Muon against its definition and against PyTorch's, which works in bfloat16."""

import numpy as np
import pytest
import torch

from ancdiff.muon import Muon, orthogonal


def matrices(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 12), (2, 12, 40)])
def test_directions_stay_and_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    given = matrices(*shape)
    u, values, v = torch.linalg.svd(given, full_matrices=False)
    turned = u.mT @ orthogonal(given) @ v.mT  # in the singular vectors of what was given
    found = torch.diagonal(turned, dim1=1, dim2=2)
    assert (turned - torch.diag_embed(found)).abs().max() < 1e-5
    sizeable = values / torch.linalg.norm(given, dim=(1, 2))[:, None] > 0.01  # smaller ones are still on their way
    assert found[sizeable].min() > 0.65
    assert found.max() < 1.25


def test_lengths_do_not_count_and_zeros_stay() -> None:
    given = matrices(1, 5, 9)
    torch.testing.assert_close(orthogonal(given), orthogonal(1e4 * given))
    assert torch.equal(orthogonal(torch.zeros(2, 4, 4)), torch.zeros(2, 4, 4))


def test_steps_are_those_of_pytorchs_within_its_precision() -> None:
    """Matrices of one shape are moved as a stack, and each as by itself."""
    shapes = [(12, 20), (12, 20), (24, 8), (16, 16)]
    mine, theirs = ([matrices(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)] for _ in range(2))
    started = [m.detach().clone() for m in mine]
    optimizers = [
        Muon(mine, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for step in range(4):
        for weights, optimizer in zip((mine, theirs), optimizers, strict=True):
            for i, weight in enumerate(weights):
                weight.grad = matrices(*weight.shape, seed=100 * step + i)
            optimizer.step()
    for a, b, start in zip(mine, theirs, started, strict=True):
        moved = (b - start).norm().item()
        assert (a - b).norm().item() < 0.02 * moved  # bfloat16 has three digits
        assert moved > 0


def test_matrices_without_a_gradient_stay() -> None:
    moved, kept = (matrices(4, 6, seed=s).requires_grad_() for s in (1, 2))
    before = kept.detach().clone()
    moved.grad = matrices(4, 6, seed=3)
    Muon([moved, kept], lr=0.1).step()
    assert torch.equal(kept, before)
    # The size of a step of AdamW: 0.2 in the root mean square of an entry, times the learning rate.
    entries = ((matrices(4, 6, seed=1) - moved.detach()) / 0.1).numpy()
    assert np.sqrt(np.square(entries).mean()) == pytest.approx(0.2, rel=0.15)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="Muon moves matrices"):
        Muon([torch.zeros(3, requires_grad=True)], lr=0.1)
