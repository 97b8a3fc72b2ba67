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
    rmsd_nm: Float[np.ndarray, "generated reference"],
    threshold_nm: float = QM9_THRESHOLD_NM,
    *,
    generated_weights: Float[np.ndarray, " generated"] | None = None,
    reference_weights: Float[np.ndarray, " reference"] | None = None,
) -> dict[str, float]:
    """COV-R, MAT-R, COV-P and MAT-P of one molecule (matching in nm) from its table of RMSDs.

    Weights are those of a bootstrap: how often each conformer was drawn. One that was not drawn cannot be found.
    """
    weights = {
        "p": np.ones(len(rmsd_nm)) if generated_weights is None else generated_weights,
        "r": np.ones(rmsd_nm.shape[1]) if reference_weights is None else reference_weights,
    }
    nearest = {
        "r": np.where(weights["p"][:, None] > 0, rmsd_nm, np.inf).min(axis=0),
        "p": np.where(weights["r"] > 0, rmsd_nm, np.inf).min(axis=1),
    }
    values: dict[str, float] = {}
    for side in ("r", "p"):
        there = weights[side] > 0
        weight, near = weights[side][there], nearest[side][there]
        values[f"cov_{side}"] = float(np.average(near <= threshold_nm, weights=weight))
        values[f"mat_{side}_nm"] = float(np.average(near, weights=weight))
    return values
