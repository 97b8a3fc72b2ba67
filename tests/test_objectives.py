"""Alignment objectives against known answers."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ancdiff.config import DenoiserSettings, Objective
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.diffusion.energy import NoiseBatch, likelihood_terms, shared_noise
from ancdiff.diffusion.noise import centre
from ancdiff.objectives import (
    OBJECTIVES,
    GroupEnergies,
    difference_error,
    diffusion_dpo_loss,
    eba_dpo_loss,
    eba_loss,
    group_effective_size,
)
from ancdiff.testing import GaussianCloud, alanine_dipeptide

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


def group_of(log_weights: list[float], model: list[float], reference: list[float] | None = None) -> GroupEnergies:
    """A group whose terms at three levels scatter about the given energies."""
    scatter = torch.tensor([-0.4, 0.1, 0.3], dtype=torch.float64)
    terms = [None if e is None else doubles(e)[:, None] + scatter for e in (model, reference)]
    assert terms[0] is not None
    return GroupEnergies(doubles(log_weights), terms[0], terms[1])


def test_every_objective_of_the_configuration_is_here() -> None:
    assert set(OBJECTIVES) | {"none"} == set(get_args(Objective))


def test_objectives_read_the_terms_as_their_formulas_do() -> None:
    group = group_of([0.0, -1.0, -3.0, 0.5], [2.0, 0.5, 1.0, 0.0], [0.3, 0.1, 0.0, 0.7])
    log_w, energy, reference = group.log_weights, doubles([2.0, 0.5, 1.0, 0.0]), doubles([0.3, 0.1, 0.0, 0.7])
    expected = {
        "eba": eba_loss(log_w, energy, alpha=0.7),
        "eba_reference": eba_loss(log_w, energy - reference, alpha=0.7),
        "eba_dpo": eba_dpo_loss(log_w, energy, reference, alpha=0.7),
    }
    for name, loss in expected.items():
        assert OBJECTIVES[name].loss(group, 0.7).item() == pytest.approx(loss.item(), rel=1e-12), name


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if o.needs_reference])
def test_an_objective_says_that_it_needs_a_reference(name: str) -> None:
    with pytest.raises(ValueError, match="needs the energies of the reference model"):
        OBJECTIVES[name].loss(group_of([0.0, -1.0], [1.0, 2.0]), 1.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_group_of_one_says_nothing(name: str) -> None:
    """K = 1: nothing to compare, so no loss and no gradient, whatever the energies are."""
    model = doubles([3.0])[:, None].repeat(1, 4).requires_grad_(True)
    loss = OBJECTIVES[name].loss(GroupEnergies(doubles([0.0]), model, torch.zeros_like(model)), 1.0)
    (gradient,) = torch.autograd.grad(loss, model)
    assert loss.item() == 0.0
    assert gradient.abs().max() == 0.0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_conformer_with_all_the_weight_is_finite(name: str) -> None:
    """Energies that differ by a million kT: the preferred conformer's model energy must go down, the others' up."""
    model = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    group = GroupEnergies(doubles([0.0, -1e6, -2e6, -3e6]), model, torch.zeros_like(model))
    loss = OBJECTIVES[name].loss(group, 1.0)
    (gradient,) = torch.autograd.grad(loss, model)
    assert math.isfinite(loss.item())
    assert gradient[0].min() > 0  # descent lowers it
    assert gradient[1:].sum() < 0


def test_diffusion_dpo_by_hand() -> None:
    model, reference = doubles([1.3, -0.2, 0.4, 9.0]), doubles([0.4, 0.1, -0.3, 9.0])
    terms = torch.stack([model, model * 2], dim=1)
    reference_terms = torch.stack([reference, reference], dim=1)
    log_w = doubles([0.0, -1.0, -5.0, -5.0])  # the first of the first pair wins; the second pair is a draw
    loss = diffusion_dpo_loss(log_w, terms, reference_terms, alpha=0.8)
    margins = [(-0.2 - 0.1) - (1.3 - 0.4), (-0.4 - 0.1) - (2.6 - 0.4)]
    by_hand = sum(math.log1p(math.exp(-0.8 * m)) for m in margins) / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)
    flipped = diffusion_dpo_loss(-log_w, terms, reference_terms, alpha=0.8)
    assert flipped.item() == pytest.approx(sum(math.log1p(math.exp(0.8 * m)) for m in margins) / 2, rel=1e-12)


def test_diffusion_dpo_bounds_the_preference_of_mean_energies_and_is_it_at_one_level() -> None:
    generator = torch.Generator().manual_seed(1)
    terms, reference = (torch.randn(2, 6, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    log_w = doubles([0.0, -2.0])
    outside = eba_dpo_loss(log_w, terms.mean(dim=1), reference.mean(dim=1), alpha=1.0)
    assert diffusion_dpo_loss(log_w, terms, reference, alpha=1.0) > outside  # Jensen
    one = diffusion_dpo_loss(log_w, terms[:, :1], reference[:, :1], alpha=1.0)
    cold = eba_loss(1e9 * log_w, (terms - reference)[:, 0], alpha=1.0)  # EBA, K = 2, β → ∞
    assert one.item() == pytest.approx(cold.item(), rel=1e-12)


def test_diffusion_dpo_leaves_an_odd_one_out() -> None:
    generator = torch.Generator().manual_seed(2)
    terms, reference = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    log_w = doubles([0.0, -1.0, -2.0, -0.5, -9.0])
    whole = diffusion_dpo_loss(log_w, terms, reference, alpha=1.0)
    assert whole.item() == diffusion_dpo_loss(log_w[:4], terms[:4], reference[:4], alpha=1.0).item()


def test_gradient_descent_relative_to_a_reference_reaches_the_tilted_reference() -> None:
    """`eba_reference` ends at p_θ ∝ p_ref e^{−βE/α}, not at e^{−βE}."""
    energy_kt, reference = doubles([0.0, 1.0, 2.5, 0.3]), doubles([1.0, 0.2, -0.5, 0.0])
    model = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [model], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        group = GroupEnergies(-energy_kt, model, reference[:, None])
        loss = OBJECTIVES["eba_reference"].loss(group, 2.0)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    found = torch.softmax(-model.detach()[:, 0], 0)
    assert torch.allclose(found, torch.softmax(-reference - energy_kt / 2.0, 0), atol=1e-6)


def real_group() -> tuple[Denoiser, list[torch.Tensor]]:
    """A small real network and, of four conformers with shared noise, the terms of its model energy."""
    torch.manual_seed(3)
    template = alanine_dipeptide()
    denoiser = Denoiser(DenoiserSettings(features=8, pair_features=4, layers=2), sigma_data_nm=0.15).double()
    graph = molecule_graph(template.molecule).to(torch.float64)
    generator = torch.Generator().manual_seed(4)
    shape = (4, template.molecule.n_atoms, 3)
    jitter = 0.02 * torch.randn(shape, generator=generator, dtype=torch.float64)
    x = centre(torch.as_tensor(template.positions_nm).double() + jitter)
    single = shared_noise(6, shape[1], sigma_min_nm=0.01, sigma_max_nm=0.3, generator=generator)
    shared = NoiseBatch(single.sigma_nm.double(), single.noise.double())
    terms = likelihood_terms(denoiser.on(graph), x, shared, sigma_min_nm=0.01, sigma_max_nm=0.3, superpose=True)
    return denoiser, list(terms)


def flat(gradients: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradients])


def test_gradient_identity_in_a_real_network() -> None:
    """dL/dθ = α Σ_i (w_i − p_i) ∇_θ E_θ(x^i), for every weight of a network, against autograd of the loss itself."""
    alpha, log_w = 0.6, doubles([0.0, -0.5, -2.0, -0.1])
    denoiser, terms = real_group()
    parameters = [p for p in denoiser.parameters() if p.requires_grad]
    loss = eba_loss(log_w, torch.stack(terms).mean(dim=1), alpha=alpha)
    direct = flat(torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))
    energies_of = [row.mean() for row in terms]
    each = [flat(torch.autograd.grad(e, parameters, retain_graph=True, materialize_grads=True)) for e in energies_of]
    w = torch.softmax(log_w, 0)
    p = torch.softmax(-alpha * torch.stack(energies_of).detach(), 0)
    identity = alpha * sum((w - p)[i] * each[i] for i in range(4))
    assert direct.abs().max() > 1e-3  # there is something to compare
    assert torch.allclose(direct, identity, rtol=1e-9, atol=1e-12 * float(direct.abs().max()))
    assert abs(float((w - p).sum())) < 1e-15  # a group never moves the level of E_θ


def noise_spread(*, antithetic: bool, levels: int = 16, repeats: int = 150) -> tuple[float, float]:
    """Over draws of the noise: the spread of a Gaussian's energy differences, and the mean of its own estimate, nats.

    Both RMS over the pairs of a group of three.
    """
    cloud = GaussianCloud(5, spread_nm=0.2)
    x = cloud.draw(3, generator=torch.Generator().manual_seed(1))
    differences, errors = [], []
    for seed in range(repeats):
        shared = shared_noise(
            levels,
            5,
            sigma_min_nm=1e-3,
            sigma_max_nm=2.0,
            generator=torch.Generator().manual_seed(seed),
            antithetic=antithetic,
        )
        terms = likelihood_terms(cloud.denoise, x, shared, sigma_min_nm=1e-3, sigma_max_nm=2.0, superpose=False)
        energy = terms.mean(dim=1)
        differences.append(torch.stack([energy[i] - energy[j] for i, j in ((0, 1), (0, 2), (1, 2))]))
        errors.append(difference_error(terms))
    spread = torch.stack(differences).var(dim=0).mean().sqrt()
    return float(spread), math.sqrt(sum(e * e for e in errors) / repeats)


def test_the_error_of_differences_is_the_spread_over_draws_of_the_noise() -> None:
    spread, estimate = noise_spread(antithetic=False)
    # The spread is known to 1/√(2·150) = 6 %; what is left of the slope adds some.
    assert 0.9 * spread < estimate < 1.4 * spread


def test_antithetic_pairs_lower_the_variance_of_differences_at_the_same_cost() -> None:
    """In a Gaussian the noise enters differences linearly, −2 x·ε: opposite noises cancel it, levels alone remain."""
    plain, _ = noise_spread(antithetic=False)
    paired, estimate = noise_spread(antithetic=True)
    assert paired**2 < 0.2 * plain**2
    assert 0.8 * paired < estimate < 5 * paired  # all that is left is the levels' slope, of which it is a bound


def test_the_error_needs_two_conformers_and_two_levels() -> None:
    assert math.isnan(difference_error(torch.zeros(1, 8)))
    assert math.isnan(difference_error(torch.zeros(3, 1)))
    assert difference_error(torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).repeat(3, 1)) < 1e-7


def test_antithetic_noise_is_in_pairs() -> None:
    shared = shared_noise(8, 5, sigma_min_nm=0.01, sigma_max_nm=1.0, generator=torch.Generator(), antithetic=True)
    assert torch.equal(shared.noise[::2], -shared.noise[1::2])
    assert torch.equal(shared.sigma_nm[::2], shared.sigma_nm[1::2])
    strata = torch.log(shared.sigma_nm[::2] / 0.01) / math.log(100) * 4
    assert strata.floor().tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="odd"):
        shared_noise(7, 5, sigma_min_nm=0.01, sigma_max_nm=1.0, generator=torch.Generator(), antithetic=True)
