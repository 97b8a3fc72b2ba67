"""Distances between clouds of identical points: after the best rotation and permutation, and to the nearest of many."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

Cloud = Float[np.ndarray, "points 3"]
Clouds = Float[np.ndarray, "clouds points 3"]

_RANDOM_STARTS = 4
_FIRST_ROUNDS, _KEPT_STARTS = 2, 3
_MOST_ROUNDS = 30


@dataclass(frozen=True, eq=False)
class Superposed:
    """A cloud turned and permuted upon another; both centred."""

    cloud: Cloud
    target: Cloud

    @property
    def rmsd(self) -> float:
        """√(Σ_i |a_i − b_i|² / N)."""
        return float(np.sqrt(np.mean(np.sum((self.cloud - self.target) ** 2, axis=1))))

    @property
    def chamfer(self) -> float:
        """½ (mean_i min_j |a_i − b_j| + mean_j min_i |a_i − b_j|)."""
        distance = np.linalg.norm(self.cloud[:, None] - self.target, axis=-1)
        return float((distance.min(axis=0).mean() + distance.min(axis=1).mean()) / 2)


def superpose_clouds(cloud: Cloud, target: Cloud, rng: np.random.Generator) -> Superposed:
    """The least RMSD over proper rotations and permutations that alternation finds from several starts.

    From each start, the best permutation for the rotation (Hungarian method) and the best rotation for the permutation
    (Kabsch) take turns until neither changes. Starts are the four proper turns of principal axes onto principal axes,
    and random ones; after two rounds the best three go on. The exact minimum is a hard problem; what is found is an
    upper bound of it. Draws from ``rng``.

    References: Kuhn 1955 (Nav. Res. Logist. Q. 2, 83); Kabsch 1976 (Acta Cryst. A 32, 922).
    """
    a, b = cloud - cloud.mean(axis=0), target - target.mean(axis=0)
    starts = [*_axis_turns(a, b), *(_random_turn(rng) for _ in range(_RANDOM_STARTS))]
    begun = sorted((_alternate(a, b, a @ turn, _FIRST_ROUNDS) for turn in starts), key=lambda one: one.rmsd)
    ended = [_alternate(one.cloud, b, one.cloud, _MOST_ROUNDS) for one in begun[:_KEPT_STARTS]]
    return min(ended, key=lambda one: one.rmsd)


def _alternate(a: Cloud, b: Cloud, turned: Cloud, rounds: int) -> Superposed:
    """Permutation and rotation of a in turns, until neither changes or after so many rounds."""
    order: np.ndarray | None = None
    for _ in range(rounds):
        # Rows of the cloud that go to points of the target: the least Σ|a − b|² is the largest Σ a·b.
        found = linear_sum_assignment(b @ turned.T, maximize=True)[1]
        if order is not None and np.array_equal(found, order):
            break
        order = found
        turned = a @ _kabsch(a[order], b)
    return Superposed(turned if order is None else turned[order], b)


def descriptors(clouds: Clouds) -> Float[np.ndarray, "clouds pairs"]:
    """Sorted distances of all pairs: the same for turned, shifted and permuted clouds."""
    i, j = np.triu_indices(clouds.shape[1], k=1)
    return np.sort(np.linalg.norm(clouds[:, i] - clouds[:, j], axis=-1), axis=1)


def nearest(
    clouds: Clouds, among: Float[np.ndarray, "others points 3"], candidates: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " clouds"], Float[np.ndarray, " clouds"]]:
    """Chamfer distance and RMSD of each cloud to its nearest (in RMSD) among many.

    Superposed are only the ``candidates`` whose sorted pair distances are most alike. Draws from ``rng``.
    """
    mine, theirs = descriptors(clouds), descriptors(among)
    chamfer, rmsd = np.empty(len(clouds)), np.empty(len(clouds))
    for k, cloud in enumerate(np.asarray(clouds, dtype=np.float64)):
        alike: Int[np.ndarray, " chosen"] = np.argsort(((theirs - mine[k]) ** 2).sum(axis=1))[:candidates]
        found = [superpose_clouds(cloud, np.asarray(among[n], dtype=np.float64), rng) for n in alike]
        best = min(found, key=lambda one: one.rmsd)
        chamfer[k], rmsd[k] = best.chamfer, best.rmsd
    return chamfer, rmsd


def _kabsch(mobile: Cloud, target: Cloud) -> Float[np.ndarray, "3 3"]:
    """The proper rotation R with least Σ|m R − t|²."""
    u, _, vt = np.linalg.svd(mobile.T @ target)
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return u @ vt


def _axis_turns(a: Cloud, b: Cloud) -> list[Float[np.ndarray, "3 3"]]:
    """The four proper rotations of the principal axes of a onto those of b."""
    axes_a, axes_b = (np.linalg.svd(x, full_matrices=True)[2] for x in (a, b))
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=np.float64)
    handed = np.sign(np.linalg.det(axes_a.T @ axes_b))
    return [(axes_a.T * (s * [1, 1, handed])) @ axes_b for s in signs]


def _random_turn(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    q[:, 0] *= np.linalg.det(q)
    return q
