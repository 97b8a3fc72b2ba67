"""Alignment: one round of fine-tuning on force-field energies (EBA), or of plain denoising as the control.

A round takes the last round's model and a pool of conformers with energies: training MD and the samples of every
earlier model of the same objective (on-policy, with replay). It never sees the force field, only log-weights, and never
the reference MD. Two losses add up: the objective, on small groups of conformers of one system, and the anchor,
denoising of the pool under importance weights that a round moves a step towards the Boltzmann distribution.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from ancdiff.artifacts import read_ensemble, read_table, write_table
from ancdiff.config import AlignSettings, DiffusionSettings, StageConfig
from ancdiff.corridor import Layout, ancestors, split_model
from ancdiff.denoiser.graph import MoleculeGraph
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
from ancdiff.diffusion.energy import likelihood_energy, likelihood_terms, noised, paper_terms, shared_noise
from ancdiff.diffusion.noise import centre, centred_noise
from ancdiff.diffusion.superpose import lay_upon_first
from ancdiff.errors import StageError
from ancdiff.objectives import OBJECTIVES, GroupEnergies, difference_error, group_effective_size
from ancdiff.provenance import made_by
from ancdiff.training import TrainingPlan, train, work_key
from ancdiff.weights import WEIGHT_COLUMNS, logmeanexp, pooled_weights, round_temperature, tempered_step

_CHUNK = 16  # conformers whose noisy copies go through the network at once; memory only


@dataclass(frozen=True, eq=False)
class Pool:
    """Scored conformers of one system, on the training device; every log-weight is finite."""

    system: str
    graph: MoleculeGraph
    training_nm: Float[Tensor, "frames atoms 3"]  # all training MD, scored or not
    positions_nm: Float[Tensor, "conformers atoms 3"]
    log_weight: Float[Tensor, " conformers"]
    anchor_weight: Float[Tensor, " conformers"]  # sums to 1
    from_md: Int[Tensor, " md"]  # indices of the conformers that come from training MD
    from_models: Int[Tensor, " sampled"]  # … and from models


def run(settings: StageConfig, *, results: Path, model: str, seed: int, threads: int) -> None:
    """Make the model ``<objective>_round<r>`` from that of the round before. Draws from ``seed`` and the round alone.

    A system whose pool has no energies, or none of its training MD or of its samples where groups need them, is left
    out of the round, on standard error and in the model's record; the control needs no energies.

    Raises:
        StageError: no system is left, or the loss became non-finite.
    """
    torch.set_num_threads(threads)
    layout, align = Layout(results), settings.align
    name, lineage = split_model(model), ancestors(model)
    objective, parent, round_seed = name.line, lineage[-1], seed + name.round_number
    parent_path = layout.model(parent)
    device = choose_device()
    denoiser, _ = load_denoiser(parent_path)
    denoiser.to(device).requires_grad_(True)
    split = read_table(results / "dataset" / "split.parquet")
    systems = [name for name, system in settings.systems.items() if system.split == "train"]
    data = [load_conformers(layout, name, split, "train", device) for name in systems]
    weights, left_out, parents = _weights(settings, layout, systems, lineage, split, round_number=name.round_number)
    record = made_by("align", settings=settings.as_dict(), seed=seed, parents=[parent_path, *parents])
    folder = layout.model(model).parent
    work = folder / ".work" / work_key(record)
    if objective == "none":
        left_out.clear()  # it needs no energies
        loss = partial(_control_loss, data=data, align=align, diffusion=settings.diffusion)
    else:
        reference, _ = load_denoiser(parent_path)
        reference.to(device)
        last = None if name.round_number == 1 else read_table(layout.model(parent).parent / "weights.parquet")
        weighted = [c for c in data if c.system in weights]
        pools = _pools(layout, weighted, weights, left_out, last, reference, settings, seed=round_seed)
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
    )
    written = pd.concat(weights.values(), ignore_index=True) if weights else pd.DataFrame(columns=list(WEIGHT_COLUMNS))
    write_table(folder / "weights.parquet", written)
    write_table(folder / "metrics.parquet", metrics)
    reasons = {system: error.what for system, error in left_out.items()}
    save_denoiser(layout.model(model), ema, record | {"left_out": reasons} if reasons else record)
    shutil.rmtree(work)


def _pools(
    layout: Layout,
    systems: Sequence[Conformers],
    weights: dict[str, pd.DataFrame],
    left_out: dict[str, StageError],
    last: pd.DataFrame | None,
    model: Denoiser,
    settings: StageConfig,
    *,
    seed: int,
) -> list[Pool]:
    """The pools of a round. Adds the anchor's columns to ``weights``, and to ``left_out`` what cannot be a pool.

    Raises:
        StageError: no pool is left; of a single system, its own error.
    """
    pools = []
    for c in systems:
        try:
            weights[c.system] = _anchored(layout, c, weights[c.system], last, model, settings, seed=seed)
            pools.append(_pool(layout, c, weights[c.system], settings.align))
        except StageError as error:
            left_out[c.system] = error
    if pools:
        return pools
    errors = list(left_out.values())
    if len(errors) == 1:
        raise errors[0]
    raise StageError(
        f"no system is left to align on: {'; '.join(error.what for error in errors)}",
        where=", ".join(left_out),
        fix="look at the status column of their score tables",
    )


def _weights(
    settings: StageConfig,
    layout: Layout,
    systems: Sequence[str],
    models: Sequence[str],
    split: pd.DataFrame,
    *,
    round_number: int,
) -> tuple[dict[str, pd.DataFrame], dict[str, StageError], list[Path]]:
    """Boltzmann weights of each system's pool, why some have none, and the files that they and conformers come from."""
    weights, left_out, parents = {}, {}, []
    temper = settings.align.temper
    kelvin = round_temperature(settings.forcefield.temperature_kelvin, temper, round_number)
    for system in systems:
        tables = {}
        for ensemble in ("training", *models):
            path = layout.energies(ensemble, system)
            tables[ensemble] = read_table(path)
            parents += [path, layout.ensemble(ensemble, system)]
        rows = split[(split["system"] == system) & (split["md"] == "training") & (split["split"] == "train")]
        tables["training"] = tables["training"][tables["training"]["conformer"].isin(rows["frame"])]
        try:
            weights[system] = pooled_weights(system, tables, temperature_kelvin=kelvin, temper_settings=temper)
        except StageError as error:
            left_out[system] = error
    return weights, left_out, parents


def _anchored(
    layout: Layout,
    conformers: Conformers,
    weights: pd.DataFrame,
    last: pd.DataFrame | None,
    model: Denoiser,
    settings: StageConfig,
    *,
    seed: int,
) -> pd.DataFrame:
    """One system's weights with the model energies of its pool and the anchor's weights, moved one step.

    A conformer starts with the mean weight of the others: MD in round 1, samples in the round after they were drawn.
    Those without an energy get −∞.
    """
    usable = np.isfinite(weights["log_weight"].to_numpy())
    positions = _positions(layout, conformers.system, weights[usable])
    device = conformers.positions_nm.device
    energy = pool_energies(
        model.on(conformers.graph), centre(torch.as_tensor(positions)).to(device), settings, model.sigma_data_nm, seed
    )
    started = np.zeros(usable.sum())
    if last is not None:
        keys = ["system", "source", "conformer"]
        before = weights[usable].merge(last[[*keys, "anchor_log_weight"]], how="left", on=keys, validate="one_to_one")
        started = before["anchor_log_weight"].to_numpy(dtype=np.float64)
        known = np.isfinite(started)
        started = np.where(known, started - (logmeanexp(started[known]) if known.any() else 0.0), 0.0)
    log_weight, gamma = tempered_step(
        started,
        weights["log_weight"].to_numpy()[usable] + energy,
        largest_step=settings.align.anchor_step,
        ess_fraction=settings.align.anchor_ess_fraction,
    )
    table = weights.assign(model_energy_nats=np.nan, anchor_log_weight=-np.inf, anchor_step=gamma)
    table.loc[usable, "model_energy_nats"] = energy
    table.loc[usable, "anchor_log_weight"] = log_weight
    return table


def pool_energies(
    denoise: Denoise,
    positions_nm: Float[Tensor, "conformers atoms 3"],
    settings: StageConfig,
    sigma_data_nm: float,
    seed: int,
) -> Float[np.ndarray, " conformers"]:
    """E_θ in nats of a whole pool, with one set of noise for all, so that their differences are sharp.

    E_θ does not change when a conformer is turned, but the same noise is another one to a turned conformer: all are
    laid upon the first.
    """
    generator = torch.Generator(positions_nm.device).manual_seed(seed)
    low = settings.diffusion.sigma_min * sigma_data_nm
    high = settings.align.energy_sigma_max * sigma_data_nm
    shared = shared_noise(
        settings.align.anchor_noise_levels,
        positions_nm.shape[1],
        sigma_min_nm=low,
        sigma_max_nm=high,
        generator=generator,
        antithetic=settings.align.antithetic,
    )
    chunks = tqdm(lay_upon_first(positions_nm).split(_CHUNK), desc="model energies", unit="chunk", mininterval=2.0)
    with torch.no_grad():
        energies = [
            likelihood_energy(
                denoise, x, shared, sigma_min_nm=low, sigma_max_nm=high, superpose=settings.diffusion.superpose
            )
            for x in chunks
        ]
    return torch.cat(energies).double().cpu().numpy()


def _positions(layout: Layout, system: str, rows: pd.DataFrame) -> Float[np.ndarray, "conformers atoms 3"]:
    """Coordinates of a table's conformers, in its order."""
    parts = []
    for source, part in rows.groupby("source", sort=False):
        parts.append(read_ensemble(layout.ensemble(str(source), system)).positions_nm[part["conformer"].to_numpy()])
    return np.concatenate(parts)


def _pool(layout: Layout, conformers: Conformers, weights: pd.DataFrame, align: AlignSettings) -> Pool:
    """The weighted conformers of one system, those without a weight left out.

    Raises:
        StageError: no sample, or no MD frame, has an energy, and groups need them.
    """
    table = weights[np.isfinite(weights["log_weight"])]
    device = conformers.positions_nm.device
    md = (table["source"] == "training").to_numpy()
    n_md = _md_of_group(align)
    if (md.all() and n_md < align.group_size) or (not md.any() and n_md > 0):
        raise StageError(
            f"the pool of {conformers.system} has {'no model samples' if md.all() else 'no MD'} with an energy",
            where=", ".join(sorted(weights["source"].unique())),
            fix="look at the status column of its score tables",
        )
    anchor = np.exp(table["anchor_log_weight"].to_numpy())
    return Pool(
        system=conformers.system,
        graph=conformers.graph,
        training_nm=conformers.positions_nm,
        positions_nm=centre(torch.as_tensor(_positions(layout, conformers.system, table))).to(device),
        log_weight=torch.tensor(table["log_weight"].to_numpy(), dtype=torch.float64, device=device),
        anchor_weight=torch.tensor(anchor, dtype=torch.float32, device=device),
        from_md=torch.tensor(np.flatnonzero(md), device=device),
        from_models=torch.tensor(np.flatnonzero(~md), device=device),
    )


def _md_of_group(align: AlignSettings) -> int:
    """How many of a group's conformers come from MD."""
    return round(align.data_fraction * align.group_size)


def _draw_group(pool: Pool, align: AlignSettings, generator: torch.Generator) -> Int[Tensor, " conformers"]:
    """K conformers of a pool in random order, a share of them from MD. Draws from ``generator``."""
    n_md = _md_of_group(align)
    parts = []
    for source, n in ((pool.from_md, n_md), (pool.from_models, align.group_size - n_md)):
        if n == 0:
            continue
        drawn = torch.randint(len(source), (n,), generator=generator, device=generator.device)
        parts.append(source[drawn])
    # The order says which are pairs (`objectives.diffusion_dpo_loss`): MD with MD and with samples alike.
    return torch.cat(parts)[torch.randperm(align.group_size, generator=generator, device=generator.device)]


def _alignment_loss(
    denoiser: Denoiser,
    generator: torch.Generator,
    *,
    objective: str,
    reference: Denoiser,
    pools: Sequence[Pool],
    align: AlignSettings,
    diffusion: DiffusionSettings,
) -> tuple[Tensor, Mapping[str, float]]:
    """The objective's mean over groups of randomly drawn systems, and the anchor, each with its weight."""
    chosen = torch.randperm(len(pools), generator=generator, device=generator.device)
    objective_of = OBJECTIVES[objective]
    losses, ess, spread, error = [], [], [], []
    for number in range(align.groups_per_step):
        pool = pools[int(chosen[number % len(pools)])]
        index = _draw_group(pool, align, generator)
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
    align: AlignSettings,
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
    weighted = torch.multinomial(pool.anchor_weight, n, replacement=True, generator=generator)
    frame = torch.randint(len(pool.training_nm), (n,), generator=generator, device=generator.device)
    local = (sigma < align.anchor_local_sigma * sigma_data_nm)[:, None, None]
    clean = torch.where(local, pool.training_nm[frame], pool.positions_nm[weighted])
    noise = centred_noise(tuple(clean.shape), generator=generator)
    return pool.graph, noised(clean, sigma, noise, superpose=diffusion.superpose)


def _model_terms(
    x: Float[Tensor, "conformers atoms 3"],
    align: AlignSettings,
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
    align: AlignSettings,
    diffusion: DiffusionSettings,
) -> tuple[Tensor, Mapping[str, float]]:
    """Plain denoising of the training MD: the same steps without energies."""
    blocks = draw_blocks(
        data, align.anchor_batch_size, diffusion, sigma_data_nm=denoiser.sigma_data_nm, generator=generator
    )
    logged: dict[str, float] = dict.fromkeys(("ess", "model_energy_spread", "model_energy_error"), float("nan"))
    return denoising_blocks_loss(denoiser, blocks, diffusion), logged


def _plan(align: AlignSettings) -> TrainingPlan:
    return TrainingPlan(
        steps=align.steps,
        learning_rate=align.learning_rate,
        gradient_clip=align.gradient_clip,
        ema_halflife_steps=align.ema_halflife_steps,
        checkpoint_every_seconds=align.checkpoint_every_seconds,
        warmup_steps=min(20, align.steps),
    )
