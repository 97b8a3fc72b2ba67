"""The anchor's weights: importance weights of the pool, which a round moves towards the Boltzmann distribution.

They begin equal and take steps with the model that the round starts from as proposal; or each conformer is weighed
once, by the model that drew it; or a bridge between training MD and the latest samples finds them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from ancdiff.artifacts import read_ensemble, read_molecule, read_table
from ancdiff.basins import basins_together
from ancdiff.bridge import bias_of_temperature, find_bridge, torsion_waves
from ancdiff.config import DiffusionSettings, LineSettings
from ancdiff.corridor import Layout
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoising import Conformers
from ancdiff.diffusion.noise import centre
from ancdiff.errors import StageError
from ancdiff.feedback import mean_energy, tilted
from ancdiff.model_energies import pool_energies
from ancdiff.molecules import Ensemble
from ancdiff.units import thermal_energy_kj_mol
from ancdiff.weights import (
    effective_sample_size,
    logmeanexp,
    logsumexp,
    pareto_smoothed,
    tempered_step,
    truncated,
)


@dataclass(frozen=True, eq=False)
class Round:
    """What all pools of a round are made with; it starts from the model ``parent``, and draws noise from ``seed``."""

    layout: Layout
    parent: str
    align: LineSettings
    diffusion: DiffusionSettings
    seed: int
    threads: int


@dataclass(frozen=True, eq=False)
class Weighed:
    """What an update gives the conformers of a pool."""

    model_energy_nats: Float[np.ndarray, " conformers"]  # NaN where it was not needed
    log_weight: Float[np.ndarray, " conformers"]  # up to a constant
    gamma: float = np.nan  # of the step
    md_kelvin: float = np.nan  # at which the training MD was found to be
    of_training: Float[np.ndarray, " frames"] | None = None  # weights of all training MD, where the pool's sum to 1


def anchored(
    this: Round, conformers: Conformers, weights: pd.DataFrame, last: pd.DataFrame | None, model: Denoiser
) -> tuple[pd.DataFrame, Float[np.ndarray, " frames"] | None]:
    """One system's weights with the model energies of its pool and the anchor's weights, moved one step.

    A conformer starts with the mean weight of the others: MD in round 1, samples in the round after they were drawn;
    with ``anchor_update: new`` they are then weighed once, with smoothed tails (MD by its temperature, where
    ``anchor_md`` says so), and each source counts by its effective sample size; with ``bridge`` all weights are found
    anew, and all training MD has some. ``energy_feedback`` tilts what comes out. Those without an energy get −∞. Where
    nothing asks for these weights they are not worked out.
    """
    align = this.align
    columns = ["model_energy_nats", "anchor_step", "anchor_excess", "anchor_tilt", "anchor_md_kelvin"]
    table = weights.assign(**dict.fromkeys(columns, np.nan), anchor_log_weight=-np.inf)
    if align.anchor == 0 and align.validate_every_steps == 0:
        return table, None
    usable = np.isfinite(weights["log_weight"].to_numpy())
    rows = weights[usable]
    if align.anchor_update == "bridge":
        found = _bridged(this, conformers, rows, model)
    elif align.anchor_update == "new":
        found = _weighed_once(this, conformers, rows, last, model)
    else:
        found = _moved(this, conformers, rows, last, model)
    excess = _expected_excess(rows, this.parent, last) if align.energy_feedback else 0.0
    log_weight, tilt = tilted(found.log_weight, _reduced_energies(rows), excess)
    table.loc[usable, "model_energy_nats"] = found.model_energy_nats
    table.loc[usable, "anchor_log_weight"] = log_weight
    of_all = {"anchor_step": found.gamma, "anchor_md_kelvin": found.md_kelvin}
    return table.assign(**of_all, anchor_excess=excess, anchor_tilt=tilt), found.of_training


def _moved(
    this: Round, conformers: Conformers, rows: pd.DataFrame, last: pd.DataFrame | None, model: Denoiser
) -> Weighed:
    """All weights take one step towards e^(−βE)/p_θ."""
    energy = _model_energies(this, conformers, rows, model)
    ratio = truncated(rows["log_weight"].to_numpy() + energy)
    log_weight, gamma = _stepped(this, _started(_weights_before(rows, last)), ratio)
    return Weighed(energy, log_weight, gamma)


def _weighed_once(
    this: Round, conformers: Conformers, rows: pd.DataFrame, last: pd.DataFrame | None, model: Denoiser
) -> Weighed:
    """Conformers that are new to the pool get weights e^(−βE)/p of what drew them; the others keep theirs."""
    before = _weights_before(rows, last)
    known = np.isfinite(before)
    new = np.ones_like(known) if known.all() else ~known  # a round that brought nothing weighs all once more
    sources = rows["source"].to_numpy()
    by_temperature = last is None and this.align.anchor_md == "temperature"
    energy = np.full(len(rows), np.nan)
    energy[new] = _model_energies(this, conformers, rows[new], model, some_md=by_temperature)
    ratio = rows["log_weight"].to_numpy()[new] + energy[new]
    kelvin = np.nan
    from_md = np.zeros(len(ratio), dtype=bool)
    if by_temperature:
        weighed, u = np.isfinite(ratio), _reduced_energies(rows[new])
        from_md = _two_ends(this, rows[new])
        slope = bias_of_temperature(ratio[weighed], from_md[weighed], u[weighed])
        ratio[from_md] = -slope * u[from_md]
        kelvin = float(rows["temperature_kelvin"].iloc[0]) / (1.0 - slope) if slope < 1.0 else np.inf
    importance = ratio.copy()
    drawn = ~from_md  # a temperature leaves no tail to smooth
    importance[drawn] = _of_each(lambda r: pareto_smoothed(r)[0], ratio[drawn], sources[new][drawn])
    # Each source stands for the whole by itself: an error that all of its densities share counts for nothing.
    log_weight = _started(before)
    towards = _of_each(_to_effective_size, importance, sources[new])
    log_weight[new], gamma = _stepped(this, log_weight[new], towards)
    return Weighed(energy, _of_each(_to_effective_size, log_weight, sources), gamma, kelvin)


def _stepped(
    this: Round, log_weight: Float[np.ndarray, " some"], ratio: Float[np.ndarray, " some"]
) -> tuple[Float[np.ndarray, " some"], float]:
    """Log-weights after a step along log-ratios, as long as the line allows, and its γ."""
    largest, floor = this.align.anchor_step, this.align.anchor_ess_fraction
    return tempered_step(log_weight, ratio, largest_step=largest, ess_fraction=floor)


def _weights_before(rows: pd.DataFrame, last: pd.DataFrame | None) -> Float[np.ndarray, " conformers"]:
    """The anchor's log-weights of the round before, without their tilt; NaN for conformers that it did not have."""
    if last is None:
        return np.full(len(rows), np.nan)
    keys = ["system", "source", "conformer"]
    merged = rows[keys].merge(last[keys].assign(before=_untilted(last)), how="left", on=keys, validate="one_to_one")
    return merged["before"].to_numpy(dtype=np.float64)


def _started(before: Float[np.ndarray, " conformers"]) -> Float[np.ndarray, " conformers"]:
    """Log-weights that a step starts from: those before, of mean 0, and 0 for conformers that had none."""
    known = np.isfinite(before)
    return np.where(known, before - (logmeanexp(before[known]) if known.any() else 0.0), 0.0)


def _untilted(last: pd.DataFrame) -> Float[np.ndarray, " conformers"]:
    """The anchor's log-weights of a round before they were tilted, up to a constant."""
    return (last["anchor_log_weight"] + last["anchor_tilt"] * _reduced_energies(last)).to_numpy(dtype=np.float64)


def _expected_excess(rows: pd.DataFrame, parent: str, last: pd.DataFrame | None) -> float:
    """How far the mean energy of the model to come will lie above that of its pool, in units of kT.

    As far as that of the round's first model lies above what it has learned; from the second round on, half of it is
    what was expected before: one training and one set of samples say it with an error.
    """
    excess = _seen_excess(rows, parent, last)
    if last is None or excess is None:
        return excess or 0.0
    return 0.5 * (excess + float(_learned(rows, last)["anchor_excess"].iloc[0]))


def _seen_excess(rows: pd.DataFrame, parent: str, last: pd.DataFrame | None) -> float | None:
    """How far the mean energy of the round's first model is above that of what it has learned; None without samples."""
    sampled, learned = rows[rows["source"] == parent], _learned(rows, last)
    if sampled.empty or learned.empty:
        return None
    weight = None if last is None else learned["anchor_log_weight"].to_numpy()
    learned = learned.assign(temperature_kelvin=rows["temperature_kelvin"].iloc[0])  # the ladder may have come down
    return mean_energy(_reduced_energies(sampled)) - mean_energy(_reduced_energies(learned), weight)


def _learned(rows: pd.DataFrame, last: pd.DataFrame | None) -> pd.DataFrame:
    """What the round's first model was trained on: the pool of the round before, or the training MD."""
    if last is None:
        return rows[rows["source"] == "training"]
    return last[(last["system"] == rows["system"].iloc[0]) & np.isfinite(last["anchor_log_weight"])]


def _reduced_energies(rows: pd.DataFrame) -> Float[np.ndarray, " conformers"]:
    """βE at the temperature of the weights."""
    thermal = rows["temperature_kelvin"].map(thermal_energy_kj_mol)
    return (rows["energy_kj_mol"] / thermal).to_numpy(dtype=np.float64)


def _bridged(this: Round, conformers: Conformers, rows: pd.DataFrame, model: Denoiser) -> Weighed:
    """Training MD and the samples of the round's first model weighed as one pool, and all training MD beside it.

    Frames that the stage `weigh` left out are no part of the union, and count among all training MD.

    Raises:
        StageError: one of the two has no energies, or the molecule has no torsions.
    """
    from_md = _two_ends(this, rows)
    molecule = read_molecule(this.layout.topology(conformers.system))
    union = Ensemble(molecule, positions_of(this.layout, conformers.system, rows))
    waves = torsion_waves(union)
    energy = _model_energies(this, conformers, rows, model, some_md=True)
    ratio = rows["log_weight"].to_numpy() + energy
    weighed = np.isfinite(ratio)
    log_share = _log_shares(this, conformers.system, rows, union)
    bridge = find_bridge(*(values[weighed] for values in (ratio, from_md, waves, log_share)))
    log_weight = np.where(weighed, bridge.log_weights(np.where(weighed, ratio, 0.0), waves, log_share), -np.inf)
    training = torsion_waves(Ensemble(molecule, conformers.positions_nm.cpu().numpy()))
    of_training = bridge.md_log_weights(training)
    # Both have the right mean: each counts by its effective sample size.
    share = effective_sample_size(of_training) / effective_sample_size(log_weight)
    return Weighed(energy, log_weight, of_training=share * np.exp(of_training - logsumexp(of_training)))


def _log_shares(this: Round, system: str, rows: pd.DataFrame, union: Ensemble) -> Float[np.ndarray, " conformers"]:
    """ln of the share of MD frames in each conformer's basins that was weighed; 0 where frames were not chosen."""
    path = this.layout.frame_log_densities(this.parent, system)
    frames = read_table(path) if this.align.anchor_energy == "path" else pd.DataFrame()
    if "share" not in frames:
        return np.zeros(len(rows))
    basins = np.array(basins_together(union))
    share = frames.set_index("conformer")["share"].reindex(rows["conformer"]).to_numpy()
    taken = (rows["source"] == "training").to_numpy() & np.isfinite(share)
    of_basins = dict(zip(basins[taken], np.log(share[taken]), strict=True))
    return np.array([of_basins.get(b, -np.inf) for b in basins])


def _two_ends(this: Round, rows: pd.DataFrame) -> Bool[np.ndarray, " conformers"]:
    """Which conformers come from training MD, where a bridge is to find their weights.

    Raises:
        StageError: MD has no energies, or the samples have none.
    """
    from_md = (rows["source"] == "training").to_numpy()
    if from_md.all() or not from_md.any():
        missing = "samples" if from_md.all() else "frames of training MD"
        raise StageError(
            f"{rows['system'].iloc[0]} has no {missing} with energies, and its weights bridge the two",
            where=f"align from {this.parent}",
            fix="look at the status column of its score tables",
        )
    return from_md


def _model_energies(
    this: Round, conformers: Conformers, rows: pd.DataFrame, model: Denoiser, *, some_md: bool = False
) -> Float[np.ndarray, " conformers"]:
    """E_θ of a table's conformers, nats: where sampling or weighing kept −log p that, else by `pool_energies`.

    With ``some_md`` it is NaN for frames that were not weighed by paths where others were.

    Raises:
        StageError: paths are asked for, and these conformers have none.
    """
    energy = _known_energies(this, conformers.system, rows)
    unknown = np.isnan(energy)
    from_md = (rows["source"] == "training").to_numpy()
    if some_md and this.align.anchor_energy == "path" and not unknown[from_md].all():
        unknown &= ~from_md
    if unknown.any() and this.align.anchor_energy == "path":
        raise StageError(
            f"{unknown.sum()} conformers of {conformers.system} have no log-density by paths under {this.parent}",
            where=", ".join(sorted(rows["source"][unknown].unique())),
            fix="run snakemake, which weighs them before the round (ancdiff weigh)",
        )
    if unknown.any():
        positions = centre(torch.as_tensor(positions_of(this.layout, conformers.system, rows[unknown])))
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


def _to_effective_size(log_weight: Float[np.ndarray, " some"]) -> Float[np.ndarray, " some"]:
    """Weights that sum to their effective sample size: estimates count by their precision."""
    return log_weight - logsumexp(log_weight) + float(np.log(effective_sample_size(log_weight)))


def _of_each(
    change: Callable[[Float[np.ndarray, " some"]], Float[np.ndarray, " some"]],
    values: Float[np.ndarray, " rows"],
    groups: np.ndarray,
) -> Float[np.ndarray, " rows"]:
    """Values changed group by group."""
    changed = np.empty_like(values)
    for group in np.unique(groups):
        changed[groups == group] = change(values[groups == group])
    return changed


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


def positions_of(layout: Layout, system: str, rows: pd.DataFrame) -> Float[np.ndarray, "conformers atoms 3"]:
    """Coordinates of a table's conformers, in its order."""
    parts = []
    for source, part in rows.groupby("source", sort=False):
        parts.append(read_ensemble(layout.ensemble(str(source), system)).positions_nm[part["conformer"].to_numpy()])
    return np.concatenate(parts)
