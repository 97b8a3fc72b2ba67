"""Training and reference data of a system of particles: clouds from its law, or parallel tempering of its potential."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ancdiff.config import ExactSettings, PointsSettings, TemperingSettings
from ancdiff.errors import StageError
from ancdiff.particles import REDUCED_KELVIN
from ancdiff.particles.laws import draw_clouds
from ancdiff.particles.potentials import PairPotential, exact_of_pair, potential_of
from ancdiff.particles.tempering import Tempered, chosen_by_shares, parallel_tempering

_CLOUD_GROUPS = 40
"""Clouds are independent; they are numbered as so many replicas, of which each gives its share to validation."""
_WORST_DEVIATION = 6.0
"""Standard errors by which tempering may miss the exact population."""


@dataclass(frozen=True, eq=False)
class ParticleData:
    """Positions, one row per frame (frame, replica, time_ps: the number of the step), and notes for the record."""

    positions_nm: Float[np.ndarray, "frames particles 3"]
    table: pd.DataFrame
    notes: dict[str, Any] = field(default_factory=dict)


def point_data(settings: PointsSettings, rng: np.random.Generator) -> ParticleData:
    """``n_clouds`` clouds, centred. Draws from ``rng``."""
    clouds = draw_clouds(settings, settings.n_clouds, rng)
    clouds -= clouds.mean(axis=1, keepdims=True)
    replica = np.arange(len(clouds)) * min(_CLOUD_GROUPS, len(clouds)) // len(clouds)
    return ParticleData((settings.length_nm * clouds).astype(np.float32), _table(replica, np.arange(len(clouds))))


def exact_data(
    settings: ExactSettings,
    tempering: TemperingSettings,
    md: str,
    rng: np.random.Generator,
    *,
    temperature_kelvin: float,
    system: str,
) -> ParticleData:
    """Frames of the lowest temperature; for ``training`` at its own temperature and with its own shares of the wells.

    Draws from ``rng``.

    Raises:
        StageError: a well has fewer frames than are wanted, or the reference misses the exact populations.
    """
    potential = potential_of(settings)
    kelvin = (md == "training" and settings.training_kelvin) or temperature_kelvin
    reduced = kelvin / REDUCED_KELVIN
    title = f"{system} {md}"
    made = parallel_tempering(potential, tempering, rng, temperature=reduced, title=title)
    wells = potential.wells(made.frames)
    notes = _notes(potential, made, wells, reduced)
    if md == "reference" and "deviation" in notes and notes["deviation"] > _WORST_DEVIATION:
        raise StageError(
            f"the populations {notes['populations']} of the reference are {notes['deviation']:.1f} standard errors "
            f"from the exact {notes['exact_populations']}",
            where=title,
            fix="raise simulate.tempering.equilibration_steps and steps",
        )
    walkers, frames = wells.shape
    replica, time = np.repeat(np.arange(walkers), frames), np.tile(np.arange(frames), walkers)
    positions = made.frames.reshape(-1, potential.n_particles, 3)
    if md == "training":
        shares = settings.training_shares or tuple(np.bincount(wells.ravel(), minlength=len(potential.well_names)))
        wanted = settings.training_frames
        flat, names = wells.ravel(), potential.well_names
        chosen = chosen_by_shares(flat, tuple(map(float, shares)), wanted, names, rng, where=f"systems.{system}")
        positions, replica, time = positions[chosen], replica[chosen], time[chosen]
        notes["training_populations"] = _rounded(np.bincount(flat[chosen], minlength=len(names)) / wanted)
    times = (1 + time) * tempering.steps_per_frame
    return ParticleData((settings.length_nm * positions).astype(np.float32), _table(replica, times), notes)


def _notes(potential: PairPotential, made: Tempered, wells: np.ndarray, temperature: float) -> dict[str, Any]:
    """How well the walkers moved; populations and mean energy (in kT) with their standard errors over walkers."""
    walkers = len(wells)
    shares = np.stack([(wells == w).mean(axis=1) for w in range(len(potential.well_names))], axis=1)
    error = shares.std(axis=0, ddof=1) / np.sqrt(walkers)
    energy = made.energies.mean(axis=1) / temperature
    notes: dict[str, Any] = {
        "acceptance": _rounded(made.acceptance),
        "exchange_acceptance": _rounded(made.exchange_acceptance),
        "wells": list(potential.well_names),
        "populations": _rounded(shares.mean(axis=0)),
        "population_errors": _rounded(error),
        "mean_energy_kt": round(float(energy.mean()), 4),
        "mean_energy_error_kt": round(float(energy.std(ddof=1) / np.sqrt(walkers)), 4),
    }
    exact = exact_of_pair(potential, temperature)
    if exact is not None:
        missed = abs(float(shares[:, 0].mean()) - exact.populations[0]) / max(float(error[0]), 1e-12)
        notes |= {
            "exact_populations": _rounded(np.array(exact.populations)),
            "exact_mean_energy_kt": round(exact.mean_energy / temperature, 4),
            "deviation": round(missed, 2),
        }
    return notes


def _table(replica: np.ndarray, time: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "frame": np.arange(len(replica), dtype=np.int64),
            "replica": replica.astype(np.int64),
            "time_ps": time.astype(np.float64),
        }
    )


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in values]
