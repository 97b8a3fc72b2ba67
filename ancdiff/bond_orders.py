"""Bond orders from distances, and stability: the rules by which EDM judges generated molecules.

A pair of atoms is bonded where its distance is below a typical single-bond length plus a margin, doubly or triply so
below the shorter lengths plus their smaller margins. Lengths are the tabulated ones that Hoogeboom et al. 2022 (arXiv
2203.17003, appendix E) took from public tables of bond lengths, in pm; the margins of 10, 5 and 3 pm they tuned so that
QM9 itself is as stable as can be.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ancdiff.compounds import ELEMENTS

_PM_PER_NM = 1000.0
MARGINS_PM = (10.0, 5.0, 3.0)
"""Added to the lengths of single, double and triple bonds."""

SINGLE_PM = {
    **{"HH": 74, "HC": 109, "HN": 101, "HO": 96, "HF": 92},
    **{"CC": 154, "CN": 147, "CO": 143, "CF": 135},
    **{"NN": 145, "NO": 140, "NF": 136, "OO": 148, "OF": 142, "FF": 142},
}
DOUBLE_PM = {"CC": 134, "CN": 129, "CO": 120, "NN": 125, "NO": 121, "OO": 121}
TRIPLE_PM = {"CC": 120, "CN": 116, "CO": 113, "NN": 110}
VALENCES = {"H": 1, "C": 4, "N": 3, "O": 2, "F": 1}


def _thresholds() -> Float[np.ndarray, "3 10 10"]:
    """Distance (nm) below which a pair of atomic numbers has a bond of at least order 1, 2, 3; 0 where never."""
    table = np.zeros((3, 10, 10))
    for order, (lengths, margin) in enumerate(zip((SINGLE_PM, DOUBLE_PM, TRIPLE_PM), MARGINS_PM, strict=True)):
        for pair, length in lengths.items():
            a, b = (ELEMENTS[symbol] for symbol in pair)
            table[order, a, b] = table[order, b, a] = (length + margin) / _PM_PER_NM
    return table


_THRESHOLDS_NM = _thresholds()
_VALENCE = np.zeros(10, dtype=np.int64)
_VALENCE[list(ELEMENTS.values())] = [VALENCES[symbol] for symbol in ELEMENTS]


def bond_orders(
    atomic_numbers: UInt8[np.ndarray, "*batch n"], positions_nm: Float[np.ndarray, "*batch n 3"]
) -> Int[np.ndarray, "*batch n n"]:
    """Order (0 to 3) of the bond between each two atoms of compounds of equal size; symmetric, zero on the diagonal."""
    positions = positions_nm.astype(np.float64)
    distance = np.linalg.norm(positions[..., :, None, :] - positions[..., None, :, :], axis=-1)
    limits = _THRESHOLDS_NM[:, atomic_numbers[..., :, None], atomic_numbers[..., None, :]]
    below = distance < limits
    # A double bond is asked for only where a single one is there, a triple one only where a double one is.
    orders = below[0] * (1 + below[1] * (1 + below[2].astype(np.int64)))
    return orders * ~np.eye(atomic_numbers.shape[-1], dtype=bool)


def stable_atoms(
    atomic_numbers: UInt8[np.ndarray, "*batch n"], positions_nm: Float[np.ndarray, "*batch n 3"]
) -> Bool[np.ndarray, "*batch n"]:
    """Atoms whose bond orders add up to their valence (H 1, C 4, N 3, O 2, F 1)."""
    return bond_orders(atomic_numbers, positions_nm).sum(-1) == _VALENCE[atomic_numbers]
