"""Alignment objectives: functions of log-weights and model energies of one group of conformers.

Symbols: K conformers x^i of one system, log w_i = −βE(x^i) up to a constant of the group, model energies E_θ(x^i) in
nats, α the scale on the model's side, E_ref the energies of a frozen reference model. A model energy is a mean over
noise levels, E_θ = ⟨e_θ(σ)⟩, and an objective is handed the terms e_θ(x^i; σ_l): Diffusion-DPO averages after its
sigmoid, the others before. An objective never sees a force field or a network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Group = Float[Tensor, " conformers"]
Terms = Float[Tensor, "conformers levels"]


@dataclass(frozen=True, eq=False)
class GroupEnergies:
    """What every objective is handed: one group's log-weights, and the terms of its model energies, nats."""

    log_weights: Group
    model: Terms
    reference: Terms | None = None  # of the frozen model, with the same noise; for objectives that need it


@dataclass(frozen=True)
class Objective:
    """A loss of a group, L(group, α), and whether it needs the reference model's energies."""

    loss: Callable[[GroupEnergies, float], Float[Tensor, ""]]
    needs_reference: bool


def eba_loss(log_weights: Group, model_energy: Group, *, alpha: float) -> Float[Tensor, ""]:
    """Energy-based alignment, L = −Σ_i softmax_i(−βE) log softmax_i(−αE_θ), less the entropy of the first softmax.

    The entropy does not depend on θ; without it the loss is a Kullback–Leibler divergence, zero where the model agrees
    with the force field on the group. dL/dθ = α Σ_i (w_i − p_i) ∇_θ E_θ(x^i) with w and p the two softmaxes.

    Reference: Lu et al. 2025 (arXiv 2505.24203), eq. 9.
    """
    w = torch.softmax(log_weights, dim=0)
    log_p = torch.log_softmax(-alpha * model_energy, dim=0)
    return functional.kl_div(log_p, w, reduction="sum")


def eba_dpo_loss(
    log_weights: Group, model_energy: Group, reference_energy: Group, *, alpha: float
) -> Float[Tensor, ""]:
    """Preference form, mean over pairs of −log σ(α[(E_θ − E_ref)(x^l) − (E_θ − E_ref)(x^w)]).

    x^w is the conformer of a pair with the lower force-field energy. It is `eba_loss` for K = 2 and β → ∞ with E_θ
    taken relative to the reference model, summed over the pairs of the group; equal energies prefer neither.

    Reference: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; Lu et al. 2025 (arXiv 2505.24203), section 4.3.
    """
    relative = model_energy - reference_energy
    winner, loser = torch.nonzero(log_weights[:, None] > log_weights[None], as_tuple=True)
    if len(winner) == 0:
        return 0.0 * relative.sum()
    return -functional.logsigmoid(alpha * (relative[loser] - relative[winner])).mean()


def diffusion_dpo_loss(log_weights: Group, model: Terms, reference: Terms, *, alpha: float) -> Float[Tensor, ""]:
    """Diffusion-DPO, mean over pairs and noise levels of −log σ(α[(e_θ − e_ref)(x^l; σ) − (e_θ − e_ref)(x^w; σ)]).

    A group makes ⌊K/2⌋ pairs that share no conformer, in the order given (groups are drawn at random). The sigmoid
    stands inside the mean over levels: by Jensen's inequality the loss is no lower than the same with it outside, which
    is `eba_dpo_loss` of the pair.

    Differs from the paper in the noise, which the two of a pair share here, and in the weight of a level, which is that
    of the model energy (likelihood or paper).

    Reference: Wallace et al. 2024 (arXiv 2311.12908), eq. 14.
    """
    first, second = slice(0, len(log_weights) - 1, 2), slice(1, len(log_weights), 2)
    relative = model - reference
    # +1 where the first of a pair is preferred, −1 where the second is, 0 where neither is: that pair has no gradient.
    sign = torch.sign(log_weights[first] - log_weights[second])
    counted = sign != 0
    if not counted.any():
        return 0.0 * relative.sum()
    margin = sign[:, None] * (relative[second] - relative[first])
    return -functional.logsigmoid(alpha * margin[counted]).mean()


def _reference(group: GroupEnergies) -> Terms:
    if group.reference is None:
        raise ValueError("this objective needs the energies of the reference model")
    return group.reference


def _eba(group: GroupEnergies, alpha: float) -> Float[Tensor, ""]:
    return eba_loss(group.log_weights, group.model.mean(dim=1), alpha=alpha)


def _eba_reference(group: GroupEnergies, alpha: float) -> Float[Tensor, ""]:
    """`eba_loss` of E_θ − E_ref: its fixed point is p_θ ∝ p_ref exp(−βE/α), the reference tilted, not e^{−βE}."""
    return eba_loss(group.log_weights, (group.model - _reference(group)).mean(dim=1), alpha=alpha)


def _eba_dpo(group: GroupEnergies, alpha: float) -> Float[Tensor, ""]:
    return eba_dpo_loss(group.log_weights, group.model.mean(dim=1), _reference(group).mean(dim=1), alpha=alpha)


def _diffusion_dpo(group: GroupEnergies, alpha: float) -> Float[Tensor, ""]:
    return diffusion_dpo_loss(group.log_weights, group.model, _reference(group), alpha=alpha)


# By the names of config `align.objectives`; `none`, the control, is plain denoising and has no groups.
OBJECTIVES: dict[str, Objective] = {
    "eba": Objective(_eba, needs_reference=False),
    "eba_reference": Objective(_eba_reference, needs_reference=True),
    "eba_dpo": Objective(_eba_dpo, needs_reference=True),
    "dpo": Objective(_diffusion_dpo, needs_reference=True),
}


def group_effective_size(log_weights: Group) -> float:
    """Kish's effective sample size of a group's Boltzmann weights, 1 to K."""
    w = torch.softmax(log_weights, dim=0)
    return float(1.0 / w.square().sum())


def difference_error(terms: Terms) -> float:
    """Standard error of the group's energy differences E_θ(x^i) − E_θ(x^j), RMS over its pairs, nats.

    The levels of a group's terms are stratified, one draw in each stratum in rising order, so that the spread over
    levels is mostly the integrand's own slope. Neighbouring strata are compared instead, which leaves little of it:
    with d_l the term of the difference at level l of L,

        s² = Σ_l (d_{l+1} − d_l)² / (2 (L − 1)) / L .

    An estimate from above (what is left of the slope adds to it). NaN for one conformer or one level.

    Reference: successive differences for systematic samples, Wolter, Introduction to Variance Estimation (2007), §8.2.
    """
    conformers, levels = terms.shape
    if conformers < 2 or levels < 2:
        return float("nan")
    d = terms.detach().double()
    steps = (d - d.mean(dim=0)).diff(dim=1)
    # The mean over pairs i ≠ j of (d_i − d_j)² is 2K/(K − 1) times the mean square about the group's mean.
    mean_square = steps.square().mean(dim=0) * 2.0 * conformers / (conformers - 1)
    return float((mean_square.sum() / (2.0 * (levels - 1)) / levels).sqrt())
