"""Parallel tempering of a pair potential: MALA steps on ladders of walkers, with exchanges between temperatures.

All walkers of all ladders move at once as arrays. Each ladder is independent of the others, so that the spread between
ladders is the error bar.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from ancdiff.config import TemperingSettings
from ancdiff.errors import StageError
from ancdiff.particles.potentials import PairPotential

_ADAPT_EVERY = 25
_WANTED_ACCEPTANCE = 0.574  # optimal for MALA in many dimensions (Roberts, Rosenthal 1998, J. R. Stat. Soc. B 60, 255)
_LARGEST_PULL = 30.0  # of a drift, per particle and in kT per reduced length: near overlaps a free drift would jump far


@dataclass(frozen=True, eq=False)
class Tempered:
    """Frames of the lowest temperature: reduced lengths, centred; and how the walkers moved."""

    frames: Float[np.ndarray, "walkers frames particles 3"]
    energies: Float[np.ndarray, "walkers frames"]
    acceptance: Float[np.ndarray, " temperatures"]
    exchange_acceptance: Float[np.ndarray, " gaps"]


def parallel_tempering(
    potential: PairPotential,
    settings: TemperingSettings,
    rng: np.random.Generator,
    *,
    temperature: float = 1.0,
    title: str = "tempering",
) -> Tempered:
    """Sample e^{−U/T} at a reduced temperature. Draws from ``rng``.

    Proposals x' = x + ½ s² f(x)/T + s ξ with the capped force f, accepted by Metropolis and Hastings with the same f
    both ways, so that the cap changes the efficiency only. Step lengths s are adapted in the equilibration alone.
    Neighbouring temperatures exchange with min(1, e^{(1/T_a − 1/T_b)(U_a − U_b)}).

    Raises:
        StageError: an energy is not finite.

    References:
        Besag 1994 (J. R. Stat. Soc. B 56, 591) for MALA; Swendsen, Wang 1986 (Phys. Rev. Lett. 57, 2607) for exchanges.
    """
    run = _Ladders(potential, np.array([1.0, *settings.hotter_factors]) * temperature, settings.walkers, rng)
    frames, energies = [], []
    with tqdm(total=settings.equilibration_steps + settings.steps, desc=title, unit="step", mininterval=2.0) as bar:
        for step in range(settings.equilibration_steps):
            run.step()
            if (step + 1) % _ADAPT_EVERY == 0:
                run.adapt()
            if (step + 1) % settings.steps_per_exchange == 0:
                run.exchange()
            bar.update()
        run.forget()
        for step in range(settings.steps):
            run.step()
            if (step + 1) % settings.steps_per_exchange == 0:
                run.exchange()
            if (step + 1) % settings.steps_per_frame == 0:
                lowest = run.positions[0]
                frames.append(lowest - lowest.mean(axis=1, keepdims=True))
                energies.append(run.energies[0].copy())
            bar.update()
    if not np.isfinite(energies).all():
        raise StageError("an energy became non-finite", where=title, fix="look at the potential's parameters")
    return Tempered(
        np.stack(frames, axis=1), np.stack(energies, axis=1), run.acceptance(), run.exchanged / np.maximum(run.tried, 1)
    )


class _Ladders:
    """Positions [temperatures, walkers, particles, 3] of all walkers, and how often they moved."""

    def __init__(
        self, potential: PairPotential, temperatures: np.ndarray, walkers: int, rng: np.random.Generator
    ) -> None:
        self.potential, self.rng = potential, rng
        self.temperatures = temperatures[:, None]
        levels = len(temperatures)
        self.positions = potential.starts(levels * walkers, rng).reshape(levels, walkers, potential.n_particles, 3)
        self.energies, self.drift = self._evaluate(self.positions)
        self.length = np.full(levels, 0.05)
        self.parity = 0
        self.forget()

    def forget(self) -> None:
        """Start counting anew."""
        self.steps, self.accepted = 0, np.zeros(len(self.length))
        self.tried, self.exchanged = np.zeros(len(self.length) - 1), np.zeros(len(self.length) - 1)

    def acceptance(self) -> Float[np.ndarray, " temperatures"]:
        return self.accepted / max(self.steps, 1)

    def adapt(self) -> None:
        """Longer steps where more are accepted than wanted."""
        self.length *= np.exp(0.5 * (self.acceptance() - _WANTED_ACCEPTANCE))
        self.forget()

    def step(self) -> None:
        """One MALA step of every walker."""
        length = self.length[:, None, None, None]
        noise = self.rng.normal(size=self.positions.shape)
        ahead = self.positions + 0.5 * length**2 * self.drift + length * noise
        energies, drift = self._evaluate(ahead)
        back = (self.positions - ahead - 0.5 * length**2 * drift) / length
        log_ratio = (self.energies - energies) / self.temperatures
        log_ratio += 0.5 * (np.sum(noise**2, axis=(-1, -2)) - np.sum(back**2, axis=(-1, -2)))
        taken = np.log(self.rng.random(log_ratio.shape)) < np.where(np.isfinite(energies), log_ratio, -np.inf)
        self.positions[taken], self.energies[taken], self.drift[taken] = ahead[taken], energies[taken], drift[taken]
        self.steps += 1
        self.accepted += taken.mean(axis=1)

    def exchange(self) -> None:
        """Swap walkers between neighbouring temperatures of each ladder, odd and even gaps in turn."""
        for low in range(self.parity, len(self.length) - 1, 2):
            high = low + 1
            beta = 1.0 / self.temperatures[low] - 1.0 / self.temperatures[high]
            log_ratio = beta * (self.energies[low] - self.energies[high])
            taken = np.log(self.rng.random(log_ratio.shape)) < log_ratio
            for values in (self.positions, self.energies):
                values[low, taken], values[high, taken] = values[high, taken].copy(), values[low, taken].copy()
            self.tried[low] += 1
            self.exchanged[low] += taken.mean()
        self.parity = 1 - self.parity
        self.energies, self.drift = self._evaluate(self.positions)  # the drift is over the new temperature

    def _evaluate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies, and capped forces over the temperature."""
        energies, force = self.potential.energy_and_force(positions)
        drift = force / self.temperatures[..., None, None]
        size = np.linalg.norm(drift, axis=-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            drift = np.where(size > _LARGEST_PULL, drift * (_LARGEST_PULL / size), drift)
        return energies, np.nan_to_num(drift)


def chosen_by_shares(
    wells: Int[np.ndarray, " frames"],
    shares: tuple[float, ...],
    wanted: int,
    names: tuple[str, ...],
    rng: np.random.Generator,
    *,
    where: str,
) -> Int[np.ndarray, " chosen"]:
    """Indices, rising, of ``wanted`` frames with these shares of the wells; no frame twice. Draws from ``rng``.

    Raises:
        StageError: a well has too few frames.
    """
    exact = wanted * np.array(shares) / sum(shares)
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")  # the largest remainders get what is left over
    counts[order[: wanted - counts.sum()]] += 1
    chosen = []
    for well, count in enumerate(counts):
        members = np.flatnonzero(wells == well)
        if len(members) < count:
            raise StageError(
                f"the well '{names[well]}' has {len(members)} frames, {count} are wanted for the training data",
                where=where,
                fix="lower its share (training_shares) or training_frames, or raise simulate.tempering.steps",
            )
        chosen.append(rng.permutation(members)[:count])
    return np.sort(np.concatenate(chosen))
