"""Potentials with an exact energy: the standard test systems of Boltzmann generators, in reduced units.

Each is a sum over pairs, U(x) = Σ_{i<j} u(d_ij), which `ancdiff.forcefield.exact` builds as an OpenMM force as well.

| potential | particles | u(d) |
|---|---|---|
| double_well | 2 | a (d − d₀) + b (d − d₀)² + c (d − d₀)⁴, tilted by a |
| dw4 | 4 | the same without a tilt: a = 0, b = −4, c = 0.9, d₀ = 4 |
| lj13, lj55 | 13, 55 | ε [(r_m/d)¹² − 2 (r_m/d)⁶] + (k/2N) d², with ε = 2, r_m = k = 1 |

The last term of the Lennard-Jones clusters is the harmonic confinement ½ k Σ_i |x_i − x̄|², written over pairs.

Two conventions of ε = 1 are in use for LJ13. bgflow's `LennardJonesPotential` halves the sum over ordered pairs, so
that each pair counts 1: such clusters boil at kT = 1. The code of DEM takes the whole sum over ordered pairs, so that
each pair counts 2, and says that this is the energy of equivariant flow matching and that a factor of ½ gives the other
one: droplets. The latter is taken here; `parameters: {epsilon: 1.0}` gives the former.

References:
    Köhler, Klein, Noé 2020 (arXiv 2006.02425) for the forms, and for a, b, c, d₀ as in bgflow's
    `MultiDoubleWellPotential`, which counts each pair once; Akhound-Sadegh et al. 2024 (DEM, arXiv 2402.06121) and
    Klein, Krämer, Noé 2023 (equivariant flow matching, arXiv 2306.15030) for the ε of LJ13 and LJ55. Differs in DW4:
    there it lies in the plane, here in space as everything else, so that its populations are not the published ones.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from ancdiff.config import ExactSettings
from ancdiff.exact_systems import PARAMETERS, PARTICLES

Positions = Float[np.ndarray, "*batch particles 3"]


@dataclass(frozen=True)
class PairPotential:
    """U(x) = Σ_{i<j} u(d_ij); ``formula`` is u as OpenMM reads it, with d and the parameters as variables."""

    name: str
    n_particles: int
    formula: str
    parameters: dict[str, float]

    @cached_property
    def pairs(self) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
        """Indices i and j of the pairs i < j."""
        return np.triu_indices(self.n_particles, k=1)

    @cached_property
    def _orientation(self) -> Float[np.ndarray, "pairs particles"]:
        """1 at i and −1 at j of each pair: carries forces between pairs to particles as a matrix product."""
        i, j = self.pairs
        one = np.eye(self.n_particles)
        return one[i] - one[j]

    def distances(self, positions: Positions) -> Float[np.ndarray, "*batch pairs"]:
        """Distance of each pair."""
        i, j = self.pairs
        return np.linalg.norm(positions[..., i, :] - positions[..., j, :], axis=-1)

    def energy(self, positions: Positions) -> Float[np.ndarray, "*batch"]:
        """U(x)."""
        return self.energy_and_force(positions)[0]

    def energy_and_force(self, positions: Positions) -> tuple[Float[np.ndarray, "*batch"], Positions]:
        """U(x) and −∂U/∂x; not finite where two particles coincide."""
        n, flat = self.n_particles, positions.reshape(-1, self.n_particles, 3)
        # The batch comes last: two matrix products over all conformers, and long rows between them.
        rows = np.ascontiguousarray(flat.transpose(1, 2, 0)).reshape(n, -1)
        difference = (self._orientation @ rows).reshape(-1, 3, len(flat))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            energy, slope = self.pair(np.einsum("pcb,pcb->pb", difference, difference))
            pulls = (-slope[:, None] * difference).reshape(len(slope), -1)
            force = (self._orientation.T @ pulls).reshape(n, 3, -1).transpose(2, 0, 1)
        return energy.sum(axis=0).reshape(positions.shape[:-2]), force.reshape(positions.shape)

    def pair(
        self, squared: Float[np.ndarray, "*shape"]
    ) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
        """u and u'(d)/d at squared distances d²."""
        if "d0" in self.parameters:
            return _double_well(squared, **self.parameters)
        return _lennard_jones(squared, n_particles=self.n_particles, **self.parameters)

    @property
    def well_names(self) -> tuple[str, ...]:
        """Names of the wells in their order: how many pairs are longer than d₀; one well where there is no d₀."""
        if "d0" not in self.parameters:
            return ("all",)
        if self.n_particles == 2:
            return ("short", "long")
        return tuple(f"long{n}" for n in range(len(self.pairs[0]) + 1))

    def wells(self, positions: Positions) -> Int[np.ndarray, "*batch"]:
        """Index of the well that each conformer is in: its number of pairs longer than d₀."""
        if "d0" not in self.parameters:
            return np.zeros(positions.shape[:-2], dtype=np.int64)
        return np.asarray(np.sum(self.distances(positions) > self.parameters["d0"], axis=-1))

    @property
    def nearest(self) -> float:
        """Distance below which two particles lie on top of each other (u is above 3,900 ε there); 0: none."""
        return 0.5 * self.parameters.get("r_m", 0.0)

    def starts(self, n: int, rng: np.random.Generator) -> Float[np.ndarray, "starts particles 3"]:
        """Spread-out configurations without overlaps, to equilibrate from. Draws from ``rng``.

        Cubic lattices of 1.1 times the pair distance of lowest energy, particles on random sites, slightly shaken.
        """
        spacing = 1.1 * self.parameters.get("r_m", self.parameters.get("d0", 1.0))
        side = int(np.ceil(self.n_particles ** (1 / 3)))
        sites = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3).astype(np.float64)
        chosen = np.stack([rng.permutation(len(sites))[: self.n_particles] for _ in range(n)])
        return spacing * (sites[chosen] + 0.05 * rng.normal(size=(n, self.n_particles, 3)))


def _double_well(squared: np.ndarray, *, a: float, b: float, c: float, d0: float) -> tuple[np.ndarray, np.ndarray]:
    d = np.sqrt(squared)
    x = d - d0
    return x * (a + x * (b + c * x * x)), (a + x * (2 * b + 4 * c * x * x)) / d


def _lennard_jones(
    squared: np.ndarray, *, epsilon: float, r_m: float, oscillator: float, n_particles: int
) -> tuple[np.ndarray, np.ndarray]:
    stiffness = oscillator / n_particles
    ratio = r_m * r_m / squared
    sixth = ratio * ratio * ratio
    energy = epsilon * (sixth * sixth - 2 * sixth) + 0.5 * stiffness * squared
    return energy, 12 * epsilon * (sixth - sixth * sixth) / squared + stiffness


def potential_of(settings: ExactSettings) -> PairPotential:
    """The potential of a system's settings: the literature's parameters, with the configuration's in their place."""
    parameters, n = PARAMETERS[settings.potential] | settings.parameters, PARTICLES[settings.potential]
    if "d0" in parameters:
        formula = "a*x + b*x^2 + c*x^4; x = d - d0"
    else:
        formula = f"epsilon*(s^2 - 2*s) + oscillator*d^2/{2 * n}; s = (r_m/d)^6"
    return PairPotential(settings.potential, n, formula, parameters)


@dataclass(frozen=True)
class Exact:
    """What quadrature says of two particles at a reduced temperature."""

    populations: tuple[float, ...]
    mean_energy: float
    energy_spread: float


def exact_of_pair(potential: PairPotential, temperature: float = 1.0) -> Exact | None:
    """Populations of the wells and moments of the energy of two particles by quadrature; None for more than two.

    The density of the distance is p(d) ∝ d² e^{−u(d)/T}, d² being the volume of a shell. By the trapezoid rule, which
    converges faster than any power here, since p and its derivatives vanish at both ends.
    """
    if potential.n_particles != 2 or "d0" not in potential.parameters:
        return None
    d = np.linspace(0.0, potential.parameters["d0"] + 8.0, 200_001)[1:]
    energy = potential.pair(d**2)[0]
    density = d**2 * np.exp(-(energy - energy.min()) / temperature)
    density /= density.sum()
    long = float(density[d > potential.parameters["d0"]].sum())
    mean = float(density @ energy)
    return Exact((1.0 - long, long), mean, float(np.sqrt(density @ (energy - mean) ** 2)))
