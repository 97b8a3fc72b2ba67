"""Alignment objectives: functions of log-weights and model energies of one group of conformers.

Symbols: K conformers x^i of one system, log w_i = −βE(x^i) up to a constant of the group, model energies E_θ(x^i) in
nats, α the scale on the model's side. An objective never sees a force field or a network.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Group = Float[Tensor, " conformers"]


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


def group_effective_size(log_weights: Group) -> float:
    """Kish's effective sample size of a group's Boltzmann weights, 1 to K."""
    w = torch.softmax(log_weights, dim=0)
    return float(1.0 / w.square().sum())
