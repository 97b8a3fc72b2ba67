"""The pool of a round of alignment: scored conformers of each system, their Boltzmann weights and the anchor's.

A pool holds training MD and the samples of every earlier model of the same line. The anchor's weights begin equal and
each round moves them a step towards the Boltzmann distribution, with the model that the round starts from as proposal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ancdiff.artifacts import read_ensemble, read_molecule, read_table
from ancdiff.bridge import find_bridge, torsion_waves
from ancdiff.config import DiffusionSettings, LineSettings, StageConfig, TemperSettings
from ancdiff.corridor import Layout
from ancdiff.denoiser.graph import MoleculeGraph
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoising import Conformers
from ancdiff.diffusion.noise import centre
from ancdiff.errors import StageError
from ancdiff.model_energies import pool_energies
from ancdiff.molecules import Ensemble
from ancdiff.weights import (
    effective_sample_size,
    logmeanexp,
    logsumexp,
    pooled_weights,
    round_temperature,
    tempered_step,
)

_HELD_OUT = 10  # one in so many conformers, to stop early by


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
    training_weight: Float[Tensor, " frames"] | None = None  # of all training MD in the anchor, beside anchor_weight


def held_out(pool: Pool) -> tuple[Pool, Pool]:
    """The pool without every tenth conformer, and those alone; each with its anchor weights, normalised.

    Conformers of one replica or one model are spread over both. Frames that are not scored have no weights any more:
    those that are held out may be among them.
    """
    index = torch.arange(len(pool.positions_nm), device=pool.positions_nm.device)
    chosen = index % _HELD_OUT == _HELD_OUT - 1
    return _part(pool, index[~chosen]), _part(pool, index[chosen])


def _part(pool: Pool, index: Int[Tensor, " chosen"]) -> Pool:
    """Some of a pool's conformers."""
    weight = pool.anchor_weight[index]
    return replace(
        pool,
        positions_nm=pool.positions_nm[index],
        log_weight=pool.log_weight[index],
        anchor_weight=weight / weight.sum(),
        training_weight=None,
        from_md=torch.nonzero(torch.isin(index, pool.from_md)).flatten(),
        from_models=torch.nonzero(torch.isin(index, pool.from_models)).flatten(),
    )


def pool_weights(
    settings: StageConfig,
    layout: Layout,
    systems: Sequence[str],
    models: Sequence[str],
    split: pd.DataFrame,
    *,
    temper: TemperSettings | None,
    round_number: int,
) -> tuple[dict[str, pd.DataFrame], dict[str, StageError], list[Path]]:
    """Boltzmann weights of each system's pool, why some have none, and the files that they and conformers come from."""
    weights, left_out, parents = {}, {}, []
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


@dataclass(frozen=True, eq=False)
class Round:
    """What all pools of a round are made with; it starts from the model ``parent``, and draws noise from ``seed``."""

    layout: Layout
    parent: str
    align: LineSettings
    diffusion: DiffusionSettings
    seed: int
    threads: int


def make_pools(
    this: Round,
    systems: Sequence[Conformers],
    weights: dict[str, pd.DataFrame],
    left_out: dict[str, StageError],
    last: pd.DataFrame | None,
    model: Denoiser,
) -> list[Pool]:
    """The pools of a round. Adds the anchor's columns to ``weights``, and to ``left_out`` what cannot be a pool.

    Raises:
        StageError: no pool is left; of a single system, its own error.
    """
    pools = []
    for c in systems:
        try:
            weights[c.system], training_weight = _anchored(this, c, weights[c.system], last, model)
            pools.append(_pool(this.layout, c, weights[c.system], training_weight, this.align))
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


def _anchored(
    this: Round, conformers: Conformers, weights: pd.DataFrame, last: pd.DataFrame | None, model: Denoiser
) -> tuple[pd.DataFrame, Float[np.ndarray, " frames"] | None]:
    """One system's weights with the model energies of its pool and the anchor's weights, moved one step.

    A conformer starts with the mean weight of the others: MD in round 1, samples in the round after they were drawn;
    with ``anchor_update: bridge`` all weights are found anew, and all training MD has some. Those without an energy get
    −∞. Where nothing asks for these weights they are not worked out.
    """
    align = this.align
    table = weights.assign(model_energy_nats=np.nan, anchor_log_weight=-np.inf, anchor_step=np.nan)
    if align.anchor == 0 and align.validate_every_steps == 0:
        return table, None
    usable = np.isfinite(weights["log_weight"].to_numpy())
    if align.anchor_update == "bridge":
        energy, log_weight, of_training = _bridged(this, conformers, weights[usable], model)
        table.loc[usable, "model_energy_nats"] = energy
        table.loc[usable, "anchor_log_weight"] = log_weight - logsumexp(log_weight)
        # Both have the right mean: each counts by its effective sample size.
        share = effective_sample_size(of_training) / effective_sample_size(log_weight)
        return table, share * np.exp(of_training - logsumexp(of_training))
    started, known = np.zeros(usable.sum()), np.zeros(usable.sum(), dtype=bool)
    if last is not None:
        keys = ["system", "source", "conformer"]
        before = weights[usable].merge(last[[*keys, "anchor_log_weight"]], how="left", on=keys, validate="one_to_one")
        started = before["anchor_log_weight"].to_numpy(dtype=np.float64)
        known = np.isfinite(started)
        started = np.where(known, started - (logmeanexp(started[known]) if known.any() else 0.0), 0.0)
    moved = ~known if align.anchor_update == "new" and not known.all() else np.ones_like(known)
    rows = weights[usable][moved]
    energy = _model_energies(this, conformers, rows, model)
    # Weighed once, each source stands for the whole by itself: an error that all of its densities share, as that of few
    # paths, counts for nothing.
    sources = rows["source"].to_numpy() if align.anchor_update == "new" else np.zeros(len(rows))
    stepped, gamma = tempered_step(
        started[moved],
        _about(np.mean, weights["log_weight"].to_numpy()[usable][moved] + energy, sources),
        largest_step=align.anchor_step,
        ess_fraction=align.anchor_ess_fraction,
    )
    # Those that are not moved keep their weights, and the moved ones the mean of them.
    started[moved] = _about(logmeanexp, stepped, sources)
    energies = np.full(len(started), np.nan)
    energies[moved] = energy
    table.loc[usable, "model_energy_nats"] = energies
    table.loc[usable, "anchor_log_weight"] = started - logsumexp(started)
    return table.assign(anchor_step=gamma), None


def _bridged(
    this: Round, conformers: Conformers, rows: pd.DataFrame, model: Denoiser
) -> tuple[Float[np.ndarray, " conformers"], Float[np.ndarray, " conformers"], Float[np.ndarray, " frames"]]:
    """Model energies and log-weights of training MD and the samples of the round's first model, as one pool.

    And log-weights of all training MD, scored or not, by itself.

    Raises:
        StageError: one of the two has no energies, or the molecule has no torsions.
    """
    from_md = (rows["source"] == "training").to_numpy()
    if from_md.all() or not from_md.any():
        missing = "samples" if from_md.all() else "frames of training MD"
        raise StageError(
            f"{conformers.system} has no {missing} with energies, and its weights bridge the two",
            where=f"align from {this.parent}",
            fix="look at the status column of its score tables",
        )
    molecule = read_molecule(this.layout.topology(conformers.system))
    waves = torsion_waves(Ensemble(molecule, _positions(this.layout, conformers.system, rows)))
    energy = _model_energies(this, conformers, rows, model)
    ratio = rows["log_weight"].to_numpy() + energy
    bridge = find_bridge(ratio, from_md, waves)
    training = torsion_waves(Ensemble(molecule, conformers.positions_nm.cpu().numpy()))
    return energy, bridge.log_weights(ratio, waves), bridge.md_log_weights(training)


def _model_energies(
    this: Round, conformers: Conformers, rows: pd.DataFrame, model: Denoiser
) -> Float[np.ndarray, " conformers"]:
    """E_θ of a table's conformers, nats: where sampling or weighing kept −log p that, else by `pool_energies`.

    Raises:
        StageError: paths are asked for, and these conformers have none.
    """
    energy = _known_energies(this, conformers.system, rows)
    unknown = np.isnan(energy)
    if unknown.any() and this.align.anchor_energy == "path":
        raise StageError(
            f"{unknown.sum()} conformers of {conformers.system} have no log-density by paths under {this.parent}",
            where=", ".join(sorted(rows["source"][unknown].unique())),
            fix="run snakemake, which weighs them before the round (ancdiff weigh)",
        )
    if unknown.any():
        positions = centre(torch.as_tensor(_positions(this.layout, conformers.system, rows[unknown])))
        energy[unknown] = pool_energies(
            model.on(conformers.graph),
            positions.to(conformers.positions_nm.device),
            this.align,
            this.diffusion,
            model.sigma_data_nm,
            this.seed,
            threads=this.threads,
        )
    return energy


def _about(
    middle: Callable[[Float[np.ndarray, " some"]], float], values: Float[np.ndarray, " rows"], groups: np.ndarray
) -> Float[np.ndarray, " rows"]:
    """Values without the middle of their group."""
    middles = {group: middle(values[groups == group]) for group in np.unique(groups)}
    return values - np.array([middles[group] for group in groups])


def _known_energies(this: Round, system: str, rows: pd.DataFrame) -> Float[np.ndarray, " conformers"]:
    """−log p of what the round's first model drew, and of frames weighed by its paths, where kept; else NaN.

    An estimate does not stand in where the exact density is asked for, nor paths for the flow.
    """
    energies = np.full(len(rows), np.nan)
    kept = {this.parent: this.layout.log_densities(this.parent, system)}
    if this.align.anchor_energy == "path":
        kept["training"] = this.layout.frame_log_densities(this.parent, system)
    for source, path in kept.items():
        if this.align.anchor_energy == "bound" or not path.is_file():
            continue
        table = read_table(path).set_index("conformer")
        if this.align.anchor_energy == "exact" and (table["standard_error_nats"] != 0).any():
            continue
        chosen = (rows["source"] == source).to_numpy()
        energies[chosen] = -table["log_density_nats"].reindex(rows["conformer"][chosen]).to_numpy()
    return energies


def _positions(layout: Layout, system: str, rows: pd.DataFrame) -> Float[np.ndarray, "conformers atoms 3"]:
    """Coordinates of a table's conformers, in its order."""
    parts = []
    for source, part in rows.groupby("source", sort=False):
        parts.append(read_ensemble(layout.ensemble(str(source), system)).positions_nm[part["conformer"].to_numpy()])
    return np.concatenate(parts)


def _pool(
    layout: Layout,
    conformers: Conformers,
    weights: pd.DataFrame,
    training_weight: Float[np.ndarray, " frames"] | None,
    align: LineSettings,
) -> Pool:
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
        training_weight=None
        if training_weight is None
        else torch.tensor(training_weight, dtype=torch.float32, device=device),
    )


def _md_of_group(align: LineSettings) -> int:
    """How many of a group's conformers come from MD."""
    return round(align.data_fraction * align.group_size)


def draw_group(pool: Pool, align: LineSettings, generator: torch.Generator) -> Int[Tensor, " conformers"]:
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


def draw_anchored(pool: Pool, n: int, generator: torch.Generator) -> Float[Tensor, "n atoms 3"]:
    """Conformers under the anchor's weights. Draws from ``generator``."""
    if pool.training_weight is None:
        return pool.positions_nm[torch.multinomial(pool.anchor_weight, n, replacement=True, generator=generator)]
    weight = torch.cat([pool.anchor_weight, pool.training_weight])
    index = torch.multinomial(weight, n, replacement=True, generator=generator)
    scored = len(pool.positions_nm)
    inside = (index < scored)[:, None, None]
    return torch.where(
        inside, pool.positions_nm[index.clamp(max=scored - 1)], pool.training_nm[(index - scored).clamp(min=0)]
    )
