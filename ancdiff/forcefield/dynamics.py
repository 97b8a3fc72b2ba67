"""Langevin dynamics and temperature replica exchange on one System, in segments that are functions of their start.

A segment makes its own integrator from its own seed, so that (start, seed) fixes what comes out on the Reference
platform, and a run that was killed goes on from its last whole segment with the same result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.errors import StageError
from ancdiff.forcefield.platforms import choose_platform, platform_properties
from ancdiff.units import FEMTOSECONDS_PER_PS, thermal_energy_kj_mol

# A minimised start holds no vibration; at this factor a picosecond warms it up before it leaves its basin.
EQUILIBRATION_FRICTION = 10.0


@dataclass(frozen=True)
class Thermostat:
    """Parameters of the Langevin-middle integrator."""

    timestep_fs: float
    friction_per_ps: float
    platform: str = "auto"

    def steps(self, time_ps: float) -> int:
        """Whole steps in a time, at least one."""
        return max(1, round(time_ps * FEMTOSECONDS_PER_PS / self.timestep_fs))


@dataclass(frozen=True, eq=False)
class Walkers:
    """Phase-space points of several copies of one molecule; walker k is at the k-th temperature of the ladder."""

    positions_nm: Float[np.ndarray, "walkers atoms 3"]
    velocities_nm_ps: Float[np.ndarray, "walkers atoms 3"]


class Engine:
    """One Context that carries walkers in turn, each at its own temperature."""

    def __init__(self, system: Any, thermostat: Thermostat, *, seed: int, threads: int = 1) -> None:
        import openmm

        self._thermostat = thermostat
        self._integrator = openmm.LangevinMiddleIntegrator(
            300.0, thermostat.friction_per_ps, thermostat.timestep_fs / FEMTOSECONDS_PER_PS
        )
        self._integrator.setRandomNumberSeed(seed)
        self._integrator.setConstraintTolerance(1e-6)
        platform = choose_platform(thermostat.platform, system)
        self._context = openmm.Context(system, self._integrator, platform, platform_properties(platform, threads))

    def thermalise(
        self, positions_nm: Float[np.ndarray, "atoms 3"], temperature_kelvin: float, seed: int
    ) -> tuple[Float[np.ndarray, "atoms 3"], Float[np.ndarray, "atoms 3"]]:
        """Positions on the constraints, and Maxwell–Boltzmann velocities. Draws from ``seed``."""
        self._context.setPositions(positions_nm)
        self._context.applyConstraints(1e-6)
        self._context.setVelocitiesToTemperature(temperature_kelvin, seed)
        state = self._context.getState(positions=True, velocities=True)
        return _positions(state), _velocities(state)

    def advance(
        self,
        positions_nm: Float[np.ndarray, "atoms 3"],
        velocities_nm_ps: Float[np.ndarray, "atoms 3"],
        *,
        temperature_kelvin: float,
        steps: int,
        friction_factor: float = 1.0,
    ) -> tuple[Float[np.ndarray, "atoms 3"], Float[np.ndarray, "atoms 3"], float]:
        """Positions, velocities and potential energy (kJ/mol) after so many steps.

        Raises:
            StageError: the trajectory has blown up.
        """
        self._integrator.setTemperature(temperature_kelvin)
        self._integrator.setFriction(self._thermostat.friction_per_ps * friction_factor)
        self._context.setPositions(positions_nm)
        self._context.setVelocities(velocities_nm_ps)
        self._integrator.step(steps)
        state = self._context.getState(positions=True, velocities=True, energy=True)
        energy_kj_mol = float(state.getPotentialEnergy()._value)
        if not np.isfinite(energy_kj_mol):
            raise StageError(
                "the dynamics blew up (the energy is not finite)",
                where=f"{temperature_kelvin} K, {self._thermostat.timestep_fs} fs",
                fix="set simulate.timestep_fs: 2.0 or less",
            )
        return _positions(state), _velocities(state), energy_kj_mol


def run_langevin(
    engine: Engine,
    start_nm: Float[np.ndarray, "atoms 3"],
    thermostat: Thermostat,
    *,
    temperature_kelvin: float,
    equilibration_ps: float,
    length_ps: float,
    frame_interval_ps: float,
    velocity_seed: int,
) -> Float[np.ndarray, "frames atoms 3"]:
    """Frames of one Langevin trajectory after its equilibration, one at the end of each interval.

    The equilibration has the friction of the thermostat times `EQUILIBRATION_FRICTION`.
    """
    positions, velocities = engine.thermalise(start_nm, temperature_kelvin, velocity_seed)
    if equilibration_ps > 0:
        positions, velocities, _ = engine.advance(
            positions,
            velocities,
            temperature_kelvin=temperature_kelvin,
            steps=thermostat.steps(equilibration_ps),
            friction_factor=EQUILIBRATION_FRICTION,
        )
    frames = []
    for _ in range(max(1, round(length_ps / frame_interval_ps))):
        positions, velocities, _ = engine.advance(
            positions,
            velocities,
            temperature_kelvin=temperature_kelvin,
            steps=thermostat.steps(frame_interval_ps),
        )
        frames.append(positions)
    return np.array(frames)


def exchange_pairs(
    energies_kj_mol: Float[np.ndarray, " walkers"],
    ladder_kelvin: Sequence[float],
    first: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " walkers"], Int[np.ndarray, " walkers"]]:
    """Metropolis swaps of neighbours (first, first + 1), (first + 2, first + 3) …

    A swap is taken with min(1, exp[(β_i − β_j)(E_i − E_j)]).

    Returns:
        For each temperature the walker that it has afterwards, and for each lower neighbour −1 (not tried), 0 or 1.

    References:
        Sugita and Okamoto, Chem. Phys. Lett. 314, 141 (1999), eq. 14–17.
    """
    order = np.arange(len(energies_kj_mol))
    taken = np.full(len(order), -1, dtype=np.int64)
    beta = np.array([1.0 / thermal_energy_kj_mol(t) for t in ladder_kelvin])
    for i in range(first, len(order) - 1, 2):
        log_ratio = (beta[i] - beta[i + 1]) * (energies_kj_mol[i] - energies_kj_mol[i + 1])
        taken[i] = int(np.log(1.0 - rng.random()) < log_ratio)
        if taken[i]:
            order[[i, i + 1]] = order[[i + 1, i]]
    return order, taken


@dataclass(frozen=True, eq=False)
class ExchangeSegment:
    """What a segment of replica exchange leaves: the frames of the lowest temperature, the walkers, the acceptance."""

    frames_nm: Float[np.ndarray, "frames atoms 3"]
    walkers: Walkers
    tried: Int[np.ndarray, " walkers"]
    taken: Int[np.ndarray, " walkers"]


def run_exchange(
    engine: Engine,
    walkers: Walkers,
    thermostat: Thermostat,
    ladder_kelvin: Sequence[float],
    *,
    exchange_interval_ps: float,
    exchanges: int,
    exchanges_per_frame: int,
    rng: np.random.Generator,
) -> ExchangeSegment:
    """Temperature replica exchange; walker k of the result is the one at the k-th temperature.

    Swaps move configurations between temperatures and rescale their velocities by √(T_new/T_old). A frame is the
    lowest temperature's configuration before the swap. Even and odd pairs are tried in turn. Draws from ``rng``.
    """
    positions = walkers.positions_nm.copy()
    velocities = walkers.velocities_nm_ps.copy()
    steps = thermostat.steps(exchange_interval_ps)
    kelvin = np.array(ladder_kelvin)
    energies = np.zeros(len(kelvin))
    tried, taken = np.zeros(len(kelvin), dtype=np.int64), np.zeros(len(kelvin), dtype=np.int64)
    frames = []
    for exchange in range(exchanges):
        for k, temperature in enumerate(ladder_kelvin):
            positions[k], velocities[k], energies[k] = engine.advance(
                positions[k], velocities[k], temperature_kelvin=temperature, steps=steps
            )
        if (exchange + 1) % exchanges_per_frame == 0:
            frames.append(positions[0].copy())
        order, outcome = exchange_pairs(energies, ladder_kelvin, exchange % 2, rng)
        positions = positions[order]
        velocities = velocities[order] * np.sqrt(kelvin / kelvin[order])[:, None, None]
        tried += outcome >= 0
        taken += outcome == 1
    return ExchangeSegment(
        np.array(frames).reshape(-1, *positions.shape[1:]), Walkers(positions, velocities), tried, taken
    )


def _positions(state: Any) -> Float[np.ndarray, "atoms 3"]:
    return np.asarray(state.getPositions(asNumpy=True)._value, dtype=np.float64)


def _velocities(state: Any) -> Float[np.ndarray, "atoms 3"]:
    return np.asarray(state.getVelocities(asNumpy=True)._value, dtype=np.float64)
