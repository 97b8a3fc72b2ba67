"""The pool of a round of alignment: scored conformers of each system, their Boltzmann weights and the anchor's.

A pool holds training MD and the samples of every earlier model of the same line, or of the latest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ancdiff.anchor import Round, anchored, positions_of
from ancdiff.artifacts import read_table
from ancdiff.config import LineSettings, StageConfig, TemperSettings
from ancdiff.corridor import Layout
from ancdiff.denoiser.graph import MoleculeGraph
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoising import Conformers
from ancdiff.diffusion.noise import centre
from ancdiff.errors import StageError
from ancdiff.weights import (
    pooled_weights,
    round_temperature,
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
            weights[c.system], training_weight = anchored(this, c, weights[c.system], last, model)
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
        positions_nm=centre(torch.as_tensor(positions_of(layout, conformers.system, table))).to(device),
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
