"""Coverage and matching: do generated conformers find the reference conformers of a molecule, and the other way round?

With D the table of best-fit RMSDs of heavy atoms between generated and reference conformers, and a threshold δ,
    COV-R = share of references with min D ≤ δ        MAT-R = mean over references of min D
    COV-P = share of generated with min D ≤ δ         MAT-P = mean over generated of min D
References: Xu et al. 2022, GeoDiff (arXiv 2203.02923), section 5.1 (δ is 0.5 Å for QM9, 1.25 Å for drugs); Ganea et al.
2021, GeoMol (arXiv 2106.07802) for the precision forms.
"""

import numpy as np
from jaxtyping import Float

QM9_THRESHOLD_NM = 0.05


def coverage_and_matching(
    rmsd_nm: Float[np.ndarray, "generated reference"], threshold_nm: float = QM9_THRESHOLD_NM
) -> dict[str, float]:
    """COV-R, MAT-R, COV-P and MAT-P of one molecule (matching in nm) from its table of RMSDs."""
    nearest = {"r": rmsd_nm.min(axis=0), "p": rmsd_nm.min(axis=1)}
    return {
        f"{name}_{side}{unit}": float(value)
        for side, values in nearest.items()
        for name, unit, value in (("cov", "", (values <= threshold_nm).mean()), ("mat", "_nm", values.mean()))
    }
