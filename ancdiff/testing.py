"""Systems that know their answer, and a checker of equivariance. Imported by tests only."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.diffusion.noise import centre
from ancdiff.molecules import Ensemble, Molecule, natural_stereocentres

Positions = Float[Tensor, "batch atoms 3"]


class GaussianCloud:
    """Conformers whose centred coordinates are i.i.d. N(0, spread²): the exact denoiser and log-density are known.

    In the zero-centre-of-mass subspace of dimension d = 3(N − 1): D(y; σ) = y s²/(s² + σ²) and
    log p_σ(x) = −‖x‖²/2(s² + σ²) − (d/2) ln 2π(s² + σ²).
    """

    def __init__(self, n_atoms: int, *, spread_nm: float) -> None:
        self.n_atoms, self.spread_nm = n_atoms, spread_nm

    @property
    def dimension(self) -> int:
        return 3 * (self.n_atoms - 1)

    def denoise(self, noisy_nm: Positions, sigma_nm: Float[Tensor, " batch"]) -> Positions:
        """The posterior mean E[x | y]."""
        variance = self.spread_nm**2
        return centre(noisy_nm) * (variance / (variance + sigma_nm**2))[:, None, None]

    def draw(self, n: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Positions:
        """Conformers from the exact density. Draws from ``generator``."""
        return centre(self.spread_nm * torch.randn(n, self.n_atoms, 3, generator=generator, dtype=dtype))

    def log_density(self, x: Positions) -> Float[Tensor, " batch"]:
        """Normalised log-density in the subspace, with nm as unit."""
        variance = self.spread_nm**2
        squared = centre(x).square().sum(dim=(-1, -2))
        return -squared / (2 * variance) - 0.5 * self.dimension * math.log(2 * math.pi * variance)


def assert_equivariant(
    function: Callable[[Positions], Positions],
    x: Positions,
    *,
    tolerance: float,
    generator: torch.Generator,
    trials: int = 8,
) -> float:
    """Check f(x Rᵀ + t) = f(x) Rᵀ for random proper rotations R and shifts t; f centres its output.

    Returns the largest error, relative to the largest coordinate of f(x).

    Raises:
        AssertionError: an error exceeds ``tolerance``.
    """
    expected = function(x)
    scale = float(expected.abs().max())
    worst = 0.0
    for _ in range(trials):
        rotation = random_rotation(generator=generator, dtype=x.dtype)
        shift = torch.randn(3, generator=generator, dtype=x.dtype)
        error = float((function(x @ rotation.T + shift) - expected @ rotation.T).abs().max()) / scale
        worst = max(worst, error)
        assert error <= tolerance, f"not SE(3)-equivariant: relative error {error:.3g} > {tolerance:.3g}"
    return worst


def mirror_error(function: Callable[[Positions], Positions], x: Positions) -> float:
    """‖f(−x) + f(x)‖∞ over ‖f(x)‖∞: zero for a function that cannot tell a molecule from its mirror image."""
    expected = function(x)
    return float((function(-x) + expected).abs().max()) / float(expected.abs().max())


def random_rotation(*, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Float[Tensor, "3 3"]:
    """A uniform proper rotation (from a random unit quaternion). Draws from ``generator``."""
    w, x, y, z = torch.nn.functional.normalize(torch.randn(4, generator=generator, dtype=dtype), dim=0).tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=dtype)


def alanine_dipeptide() -> Ensemble:
    """One conformer of ACE-ALA-NME (L, heavy atoms, φ = −80°, ψ = 145°), built from internal coordinates."""
    atom_names = ("CH3", "C", "O", "N", "CA", "CB", "C", "O", "N", "C")
    residue_of_atom = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    residue_names = ("ACE", "ALA", "NME")
    bonds = np.array([[0, 1], [1, 2], [1, 3], [3, 4], [4, 5], [4, 6], [6, 7], [6, 8], [8, 9]])
    molecule = Molecule(
        name="ala",
        atom_names=atom_names,
        elements=("C", "C", "O", "N", "C", "C", "C", "O", "N", "C"),
        residue_names=residue_names,
        residue_of_atom=residue_of_atom,
        bonds=bonds,
        stereocentres=natural_stereocentres(atom_names, residue_names, residue_of_atom),
    )
    # (bond to, angle with, torsion with): length nm, angle and torsion in degrees; ideal values of a peptide.
    placed = [np.zeros(3), np.array([0.1522, 0.0, 0.0])]
    placed.append(placed[1] + 0.1229 * np.array([math.cos(math.radians(60.0)), math.sin(math.radians(60.0)), 0.0]))
    steps = [
        (1, 0, 2, 0.1335, 116.6, 180.0),  # N, across the plane from O
        (3, 1, 0, 0.1449, 121.9, 180.0),  # CA
        (4, 3, 1, 0.1526, 109.7, 160.0),  # CB: φ − 120°
        (4, 3, 1, 0.1522, 110.1, -80.0),  # C: φ
        (6, 4, 3, 0.1229, 120.4, -35.0),  # O: ψ + 180°
        (6, 4, 3, 0.1335, 116.6, 145.0),  # N: ψ
        (8, 6, 4, 0.1449, 121.9, 180.0),  # C
    ]
    for near, middle, far, length, angle, torsion in steps:
        placed.append(_place(placed[far], placed[middle], placed[near], length, angle, torsion))
    return Ensemble(molecule, np.array(placed, dtype=np.float32)[None])


def _place(
    far: np.ndarray, middle: np.ndarray, near: np.ndarray, length: float, angle_deg: float, torsion_deg: float
) -> np.ndarray:
    """Position of an atom bonded to ``near`` from its internal coordinates (natural extension reference frame)."""
    angle, torsion = math.radians(angle_deg), math.radians(torsion_deg)
    axis = (near - middle) / np.linalg.norm(near - middle)
    normal = np.cross(middle - far, axis)
    normal /= np.linalg.norm(normal)
    frame = np.stack([axis, np.cross(normal, axis), normal])
    local = [-math.cos(angle), math.sin(angle) * math.cos(torsion), math.sin(angle) * math.sin(torsion)]
    return near + length * np.array(local) @ frame
