"""Alignment objectives against known answers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ancdiff.objectives import eba_dpo_loss, eba_loss, group_effective_size

energies = st.lists(st.floats(-20, 20), min_size=2, max_size=8)


def doubles(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(energies)
def test_eba_is_zero_with_zero_gradient_where_the_model_matches(values: list[float]) -> None:
    model = doubles(values).requires_grad_(True)
    loss = eba_loss(-doubles(values) + 3.0, model, alpha=1.0)
    (gradient,) = torch.autograd.grad(loss, model)
    assert abs(loss.item()) < 1e-12
    assert gradient.abs().max() < 1e-12


@given(energies, st.floats(-50, 50), st.floats(-50, 50))
def test_eba_does_not_see_constants_of_the_group(values: list[float], shift: float, model_shift: float) -> None:
    log_weights, model = -doubles(values), doubles(values[::-1]) / 2
    loss = eba_loss(log_weights, model, alpha=1.0)
    assert eba_loss(log_weights + shift, model + model_shift, alpha=1.0).item() == pytest.approx(loss.item(), abs=1e-9)


def test_eba_gradient_is_the_difference_of_the_two_softmaxes() -> None:
    """dL/dE_i = α (w_i − p_i), so dL/dθ = α Σ (w_i − p_i) ∇_θ E_θ(x^i)."""
    log_weights, model = doubles([0.0, -1.0, -3.0]), doubles([2.0, 0.5, 1.0]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(eba_loss(log_weights, model, alpha=0.7), model)
    w, p = torch.softmax(log_weights, 0), torch.softmax(-0.7 * model.detach(), 0)
    assert torch.allclose(gradient, 0.7 * (w - p))


def test_equal_energies_are_uniform_weights() -> None:
    assert group_effective_size(torch.zeros(6)) == pytest.approx(6.0)
    model = torch.tensor([1.0, 0.0])
    # KL(½, ½ ‖ p) by hand
    p = torch.softmax(-model, 0)
    assert eba_loss(torch.zeros(2), model, alpha=1.0).item() == pytest.approx(
        -0.5 * math.log(4 * p[0] * p[1]), rel=1e-6
    )


def test_dpo_is_eba_of_two_conformers_at_zero_temperature() -> None:
    model, reference = doubles([1.3, -0.2]), doubles([0.4, 0.1])
    energies_kt = doubles([-5.0, -2.0])  # the first one wins
    cold = eba_loss(-1e6 * energies_kt, model - reference, alpha=0.8)
    dpo = eba_dpo_loss(-energies_kt, model, reference, alpha=0.8)
    assert cold.item() == pytest.approx(dpo.item(), rel=1e-12)
    by_hand = -math.log(1 / (1 + math.exp(-0.8 * ((-0.2 - 0.1) - (1.3 - 0.4)))))
    assert dpo.item() == pytest.approx(by_hand, rel=1e-12)


def test_dpo_prefers_neither_of_equal_energies() -> None:
    model = doubles([1.0, 2.0]).requires_grad_(True)
    loss = eba_dpo_loss(torch.zeros(2, dtype=torch.float64), model, doubles([0.0, 0.0]), alpha=1.0)
    (gradient,) = torch.autograd.grad(loss, model)
    assert loss.item() == 0.0
    assert gradient.abs().max() == 0.0


def test_gradient_descent_on_eba_reaches_the_boltzmann_weights() -> None:
    energy_kt = doubles([0.0, 1.0, 2.5, 0.3])
    model = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([model], lr=1.0)
    for _ in range(3000):
        optimizer.zero_grad()
        eba_loss(-energy_kt, model, alpha=1.0).backward()
        optimizer.step()
    found = torch.softmax(-model.detach(), 0)
    assert torch.allclose(found, torch.softmax(-energy_kt, 0), atol=1e-6)
