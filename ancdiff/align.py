"""Alignment: one round of fine-tuning on force-field energies (EBA), or of plain denoising as the control.

A round takes the last round's model and a pool of conformers with energies: training MD and the samples of every
earlier model of the same objective (on-policy, with replay). It never sees the force field, only log-weights, and never
the reference MD. Two losses add up: the objective, on small groups of conformers of one system, and the anchor,
denoising of the pool under importance weights that a round moves a step towards the Boltzmann distribution.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.anchor import Round
from ancdiff.artifacts import read_table, write_table
from ancdiff.config import DiffusionSettings, LineSettings, StageConfig
from ancdiff.corridor import Layout, ancestors, line_settings, objective_of, replayed, split_model
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoiser.store import choose_device, load_denoiser, save_denoiser
from ancdiff.denoising import (
    Block,
    Conformers,
    denoising_blocks_loss,
    draw_blocks,
    load_conformers,
    shares,
    training_levels,
)
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.energy import likelihood_terms, noised, paper_terms, shared_noise
from ancdiff.diffusion.noise import centred_noise
from ancdiff.diffusion.superpose import lay_upon_first
from ancdiff.errors import StageError
from ancdiff.objectives import OBJECTIVES, GroupEnergies, difference_error, group_effective_size
from ancdiff.pool import Pool, draw_anchored, draw_group, held_out, make_pools, pool_weights
from ancdiff.provenance import made_by
from ancdiff.training import TrainingPlan, train, work_key
from ancdiff.weights import WEIGHT_COLUMNS

_VALIDATED = 512  # noisy conformers of each system in a validation


def run(settings: StageConfig, *, results: Path, model: str, seed: int, threads: int) -> None:
    """Make the model ``<line>_round<r>`` from that of the round before. Draws from ``seed`` and the round alone.

    A system whose pool has no energies, or none of its training MD or of its samples where groups need them, is left
    out of the round, on standard error and in the model's record; the control needs no energies.

    Raises:
        StageError: no system is left, or the loss became non-finite.
    """
    torch.set_num_threads(1)  # threads take whole chunks of the pool, not parts of operations
    name, lineage = split_model(model), ancestors(model)
    layout, align = Layout(results), line_settings(settings.align, name.line)
    objective, parent, round_seed = objective_of(name.line), lineage[-1], seed + name.round_number
    parent_path = layout.model(parent)
    device = choose_device()
    denoiser, _ = load_denoiser(parent_path)
    denoiser.to(device).requires_grad_(True)
    denoiser.compile_layers()
    split = read_table(results / "dataset" / "split.parquet")
    systems = [name for name, system in settings.systems.items() if system.split == "train"]
    data = [load_conformers(layout, name, split, "train", device) for name in systems]
    weights, left_out, parents = pool_weights(
        settings,
        layout,
        systems,
        replayed(lineage, settings.align),
        split,
        temper=align.temper,
        round_number=name.round_number,
    )
    kept = [layout.log_densities] + [layout.frame_log_densities] * (align.anchor_energy == "path")
    parents += [path for name in systems for densities in kept if (path := densities(parent, name)).is_file()]
    record = made_by("align", settings=settings.as_dict(), seed=seed, parents=[parent_path, *parents])
    folder = layout.model(model).parent
    work = folder / ".work" / work_key(record)
    validate = None
    if objective == "none":
        left_out.clear()  # it needs no energies
        loss = partial(_control_loss, data=data, align=align, diffusion=settings.diffusion)
    else:
        reference, _ = load_denoiser(parent_path)
        reference.to(device)
        last = None if name.round_number == 1 else read_table(layout.model(parent).parent / "weights.parquet")
        weighted = [c for c in data if c.system in weights]
        this = Round(layout, parent, align, settings.diffusion, round_seed, threads)
        pools = make_pools(this, weighted, weights, left_out, last, reference)
        if align.validate_every_steps:
            pools, held = zip(*map(held_out, pools), strict=True)
            validate = partial(_validation_loss, held=held, align=align, diffusion=settings.diffusion, seed=round_seed)
        loss = partial(
            _alignment_loss,
            objective=objective,
            reference=reference,
            pools=pools,
            align=align,
            diffusion=settings.diffusion,
        )
    for system, error in left_out.items():
        print(f"align {model}: {system} is left out: {error.what}", file=sys.stderr, flush=True)
    ema, metrics = train(
        denoiser,
        lambda generator: [partial(loss, generator=generator)],
        _plan(align),
        generator=torch.Generator(device).manual_seed(round_seed),
        work=work,
        title=f"align {model}",
        validate=validate,
        validate_every_steps=align.validate_every_steps,
        patience=None if validate is None else align.patience,
    )
    written = pd.concat(weights.values(), ignore_index=True) if weights else pd.DataFrame(columns=list(WEIGHT_COLUMNS))
    write_table(folder / "weights.parquet", written)
    write_table(folder / "metrics.parquet", metrics)
    reasons = {system: error.what for system, error in left_out.items()}
    save_denoiser(layout.model(model), ema, record | {"left_out": reasons} if reasons else record)
    shutil.rmtree(work)


def _alignment_loss(
    denoiser: Denoiser,
    generator: torch.Generator,
    *,
    objective: str,
    reference: Denoiser,
    pools: Sequence[Pool],
    align: LineSettings,
    diffusion: DiffusionSettings,
) -> tuple[Tensor, Mapping[str, float]]:
    """The objective's mean over groups of randomly drawn systems, and the anchor, each with its weight."""
    chosen = torch.randperm(len(pools), generator=generator, device=generator.device)
    objective_of = OBJECTIVES[objective]
    losses, ess, spread, error = [], [], [], []
    for number in range(align.groups_per_step):
        pool = pools[int(chosen[number % len(pools)])]
        index = draw_group(pool, align, generator)
        x = lay_upon_first(pool.positions_nm[index])  # so that the noise is the same to all of them
        # Relative to the group's best in double precision: what is far above it keeps its differences.
        log_w = (pool.log_weight[index] - pool.log_weight[index].max()).float()
        terms_of = _model_terms(x, align, diffusion, denoiser.sigma_data_nm, generator)
        terms, reference_terms = terms_of(denoiser.on(pool.graph)), None
        if objective_of.needs_reference:
            with torch.no_grad():
                reference_terms = terms_of(reference.on(pool.graph))
        if not torch.isfinite(terms).all():
            raise StageError(
                f"the model energies of conformers of {pool.system} are not finite",
                where=f"align, objective {objective}",
                fix="lower align.learning_rate or align.objective_weight; the last checkpoint is kept",
            )
        losses.append(objective_of.loss(GroupEnergies(log_w, terms, reference_terms), align.alpha))
        ess.append(group_effective_size(log_w))
        spread.append(float(terms.detach().mean(dim=1).std()))
        error.append(difference_error(terms))
    loss = align.objective_weight * torch.stack(losses).mean()
    if align.anchor > 0:
        numbers = shares([pool.graph for pool in pools], align.anchor_batch_size)
        blocks = [
            _anchor_block(pool, n, align, diffusion, denoiser.sigma_data_nm, generator)
            for pool, n in zip(pools, numbers, strict=True)
        ]
        loss = loss + align.anchor * denoising_blocks_loss(denoiser, blocks, diffusion)
    return loss, {
        "ess": float(np.mean(ess)),
        "model_energy_spread": float(np.mean(spread)),
        "model_energy_error": float(np.mean(error)),
    }


def _anchor_block(
    pool: Pool,
    n: int,
    align: LineSettings,
    diffusion: DiffusionSettings,
    sigma_data_nm: float,
    generator: torch.Generator,
) -> Block:
    """``n`` noisy conformers for the anchor: of the weighted pool, and where noise is low of the training MD.

    At noise far below the distance between basins the denoiser depends on the density near its input alone, and a
    weight that is constant there drops out of it. The training MD has the right density inside each basin and no
    weights that add variance, so it keeps the local geometry while the pool moves populations. Draws from
    ``generator``.
    """
    sigma = training_levels(diffusion, sigma_data_nm).draw(n, generator=generator)
    weighted = draw_anchored(pool, n, generator)
    frame = torch.randint(len(pool.training_nm), (n,), generator=generator, device=generator.device)
    local = (sigma < align.anchor_local_sigma * sigma_data_nm)[:, None, None]
    clean = torch.where(local, pool.training_nm[frame], weighted)
    noise = centred_noise(tuple(clean.shape), generator=generator)
    return pool.graph, noised(clean, sigma, noise, superpose=diffusion.superpose)


@torch.no_grad()
def _validation_loss(
    denoiser: Denoiser, held: Sequence[Pool], align: LineSettings, diffusion: DiffusionSettings, seed: int
) -> float:
    """Denoising loss of held-out conformers under the anchor's weights, at all noise levels, with the same noise."""
    generator = torch.Generator(held[0].positions_nm.device).manual_seed(seed)
    of_the_pool = align.model_copy(update={"anchor_local_sigma": 0.0})
    blocks = [
        _anchor_block(pool, _VALIDATED, of_the_pool, diffusion, denoiser.sigma_data_nm, generator) for pool in held
    ]
    return float(denoising_blocks_loss(denoiser, blocks, diffusion))


def _model_terms(
    x: Float[Tensor, "conformers atoms 3"],
    align: LineSettings,
    diffusion: DiffusionSettings,
    sigma_data_nm: float,
    generator: torch.Generator,
) -> Callable[[Denoise], Float[Tensor, "conformers levels"]]:
    """The terms of E_θ of a group as a function of the denoiser, all with the same noise. Draws from ``generator``."""
    low, high = diffusion.sigma_min * sigma_data_nm, align.energy_sigma_max * sigma_data_nm
    shared = shared_noise(
        align.noise_levels,
        x.shape[1],
        sigma_min_nm=low,
        sigma_max_nm=high,
        generator=generator,
        antithetic=align.antithetic,
    )
    if align.weighting == "paper":
        return lambda denoise: paper_terms(denoise, x, shared, scale=align.paper_scale, superpose=diffusion.superpose)
    return lambda denoise: likelihood_terms(
        denoise, x, shared, sigma_min_nm=low, sigma_max_nm=high, superpose=diffusion.superpose
    )


def _control_loss(
    denoiser: Denoiser,
    generator: torch.Generator,
    *,
    data: Sequence[Conformers],
    align: LineSettings,
    diffusion: DiffusionSettings,
) -> tuple[Tensor, Mapping[str, float]]:
    """Plain denoising of the training MD: the same steps without energies."""
    blocks = draw_blocks(
        data, align.anchor_batch_size, diffusion, sigma_data_nm=denoiser.sigma_data_nm, generator=generator
    )
    logged: dict[str, float] = dict.fromkeys(("ess", "model_energy_spread", "model_energy_error"), float("nan"))
    return denoising_blocks_loss(denoiser, blocks, diffusion), logged


def _plan(align: LineSettings) -> TrainingPlan:
    return TrainingPlan(
        steps=align.steps,
        optimizer=align.optimizer,
        learning_rate=align.learning_rate,
        gradient_clip=align.gradient_clip,
        ema_halflife_steps=align.ema_halflife_steps,
        checkpoint_every_seconds=align.checkpoint_every_seconds,
        warmup_steps=min(20, align.steps),
    )
