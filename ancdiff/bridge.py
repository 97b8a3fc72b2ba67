"""Bridge sampling between MD that is too short and samples of a model: Boltzmann weights of both together.

Short MD has the right density within a basin, and wrong shares of basins. So its density is taken to be
m ∝ e^{−βE + g} with a bias g that is a smooth function of the torsions that are slow. A model's density q is known, m's
is not, but g follows from where the two meet. With r = −βE − ln q, a conformer x of the union of n_m frames and n_q
samples comes from the MD with log-odds

    ln n_m m(x)/(n_q q(x)) = r(x) + g(x) + constant,

a logistic regression of the coefficients of g with r as a known term. Then the weights of the union are

    w(x) ∝ e^{−βE(x)} / (n_m m(x) + n_q q(x)) ∝ 1 / (e^{g(x) + constant} + e^{−r(x)}),

bounded wherever the MD has been: no sample carries a mean alone, as it can with weights e^r. Of q no more is needed
than that it is normalised over conformers and whatever random numbers r takes, as it is for weights of paths. Without
torsions this is Bennett's acceptance ratio. Frames of which r is not known have weights as well, e^{−g}: those of MD
alone.

Where frames were chosen by their torsions, a share s(x) of those that the MD has there, m is m s: ln s is known, and
stands beside g. Samples where no frame was taken say nothing of g and have the weights e^r of samples alone.

MD that is at equilibrium at another temperature has the bias g = λβE (`bias_of_temperature`), and weights e^{−g} have
none of what r has by chance. Weights e^r of frames are off where r takes random numbers, those of a path: its ω has the
mean q, but 1/ω a mean that is higher, by e^{σ²} where ln ω is Gaussian; and σ² changes with the energy.

References: Bennett 1976, J. Comput. Phys. 22, 245; Geyer 1994 (reverse logistic regression), Minnesota technical report
568; Meng and Wong 1996, Statistica Sinica 6, 831; Shirts and Chodera 2008, J. Chem. Phys. 129, 124105.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit

from ancdiff.basins import ramachandran
from ancdiff.errors import StageError
from ancdiff.molecules import Ensemble

_ORDER = 3  # highest Fourier order of a residue's two torsions: 60° are told apart
_RIDGE = 1.0  # one over the variance, in nats², that a coefficient of g is expected to have


def torsion_waves(ensemble: Ensemble) -> Float[np.ndarray, "conformers waves"]:
    """cos and sin of iφ + jψ for 0 < |i| + j ≤ 3, of each residue that has both torsions.

    Raises:
        StageError: the molecule has no such residue.
    """
    residues, angles = ramachandran(ensemble)
    if not residues:
        raise StageError(
            f"{ensemble.molecule.name} has no backbone torsions, of which the bias of its MD could be a function",
            where="align.anchor_update: bridge",
            fix="set align.anchor_update to 'new' or 'all'",
        )
    waves = []
    for i in range(-_ORDER, _ORDER + 1):
        for j in range(_ORDER + 1 - abs(i)):
            if j > 0 or i > 0:
                phase = i * angles[..., 0] + j * angles[..., 1]
                waves += [np.cos(phase), np.sin(phase)]
    return np.concatenate(waves, axis=1)


@dataclass(frozen=True, eq=False)
class Bridge:
    """ln n_m m/(n_q q) = r + constant + g, with g a sum of waves."""

    constant: float
    coefficients: Float[np.ndarray, " waves"]

    def log_weights(
        self,
        log_ratio: Float[np.ndarray, " conformers"],
        waves: Float[np.ndarray, "conformers waves"],
        log_share: Float[np.ndarray, " conformers"] | float = 0.0,
    ) -> Float[np.ndarray, " conformers"]:
        """ln w of the union of MD frames and model samples, up to a constant, from r = −βE − ln q (nats) and ln s."""
        return -np.logaddexp(self.constant + log_share + waves @ self.coefficients, -log_ratio)

    def md_log_weights(self, waves: Float[np.ndarray, "frames waves"]) -> Float[np.ndarray, " frames"]:
        """−g: ln w of frames of the MD among themselves, up to a constant, whether or not their r is known."""
        return -(waves @ self.coefficients)


def find_bridge(
    log_ratio: Float[np.ndarray, " conformers"],
    from_md: Bool[np.ndarray, " conformers"],
    waves: Float[np.ndarray, "conformers waves"],
    log_share: Float[np.ndarray, " conformers"] | float = 0.0,
) -> Bridge:
    """The bias of MD from frames and model samples, with r = −βE − ln q (nats) and ln s of each, −∞ where s = 0.

    Coefficients of g have a Gaussian prior of variance 1 nat², the constant has none.

    Raises:
        ValueError: there are no frames, or no samples.
    """
    if from_md.all() or not from_md.any():
        raise ValueError("a bridge has two ends: MD frames and model samples")
    middle = float(np.median(log_ratio))
    features = np.column_stack([np.ones(len(log_ratio)), waves])
    ridge = np.full(features.shape[1], _RIDGE)
    ridge[0] = 0.0
    sign = np.where(from_md, -1.0, 1.0)

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        odds = log_ratio - middle + log_share + features @ coefficients
        value = np.logaddexp(0.0, sign * odds).sum() + 0.5 * ridge @ coefficients**2
        return value, features.T @ (expit(odds) - from_md) + ridge * coefficients

    started = np.zeros(features.shape[1])
    found = minimize(loss, started, jac=True, method="L-BFGS-B", options={"maxiter": 10_000, "gtol": 1e-6}).x
    return Bridge(constant=float(found[0]) - middle, coefficients=found[1:])


def bias_of_temperature(
    log_ratio: Float[np.ndarray, " conformers"],
    from_md: Bool[np.ndarray, " conformers"],
    reduced_energy: Float[np.ndarray, " conformers"],
) -> float:
    """λ of MD at another temperature, m ∝ e^{−βE + λβE}, from r = −βE − ln q and βE of frames and model samples.

    The MD's temperature is T/(1 − λ). λ is 0 where all energies are alike.

    Raises:
        ValueError: there are no frames, or no samples.
    """
    spread = float(np.std(reduced_energy)) or 1.0
    standard = (reduced_energy - reduced_energy.mean()) / spread
    return float(find_bridge(log_ratio, from_md, standard[:, None]).coefficients[0]) / spread
