"""Bonds of compounds from distances: orders, lengths, angles, and stability as EDM judges it.

A pair of atoms is bonded where its distance is below a typical single-bond length plus a margin, doubly or triply so
below the shorter lengths plus their smaller margins. Lengths are the tabulated ones that Hoogeboom et al. 2022 (arXiv
2203.17003, appendix E) took from public tables of bond lengths, in pm; the margins of 10, 5 and 3 pm they tuned so that
QM9 itself is as stable as can be.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ancdiff.compounds import ELEMENTS, SYMBOLS, Compounds

_PM_PER_NM = 1000.0
Values = dict[str, tuple[Float[np.ndarray, " _"], Int[np.ndarray, " _"]]]
"""By kind: values, and the place in the set of the compound that each belongs to."""

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


def bond_lengths(compounds: Compounds) -> Values:
    """Lengths (nm) of all bonds by kind, e.g. ``C-C``, ``C=O``, ``C#N``."""
    parts = []
    for block in compounds.blocks():
        orders = np.triu(bond_orders(block.atomic_numbers, block.positions_nm))
        compound, i, j = orders.nonzero()
        a, b = block.atomic_numbers[compound, i].astype(int), block.atomic_numbers[compound, j].astype(int)
        lengths = np.linalg.norm(block.positions_nm[compound, i] - block.positions_nm[compound, j], axis=-1)
        kinds = np.minimum(a, b) * 1000 + np.maximum(a, b) * 10 + orders[compound, i, j]
        parts.append((kinds, lengths, block.members[compound]))
    return _by_kind(parts, _bond_name)


def bond_angles(compounds: Compounds) -> Values:
    """Angles (degrees) of all pairs of bonds at an atom, by the elements: ``H-C-C`` has carbon in the middle."""
    parts = []
    for block in compounds.blocks():
        bonded = bond_orders(block.atomic_numbers, block.positions_nm) > 0
        for middle in range(block.atomic_numbers.shape[1]):
            compound, i, j = np.triu(bonded[:, middle, :, None] & bonded[:, middle, None, :], k=1).nonzero()
            x, rows = block.positions_nm[compound].astype(np.float64), np.arange(len(compound))
            u, v = x[rows, i] - x[:, middle], x[rows, j] - x[:, middle]
            cosine = (u * v).sum(-1) / (np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1))
            z = block.atomic_numbers[compound].astype(int)
            ends = np.sort(np.stack([z[rows, i], z[rows, j]]), axis=0)
            kinds = ends[0] * 10_000 + z[:, middle] * 100 + ends[1]
            parts.append((kinds, np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))), block.members[compound]))
    return _by_kind(parts, _angle_name)


def _by_kind(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], name: Callable[[int], str]) -> Values:
    if not parts:
        return {}
    kinds, values, owners = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {name(int(k)): (values[kinds == k].astype(np.float64), owners[kinds == k]) for k in np.unique(kinds)}


def _bond_name(kind: int) -> str:
    low, high, order = kind // 1000, kind // 10 % 100, kind % 10
    first, second = (high, low) if low == 1 else (low, high)  # hydrogen last, as chemists write
    return f"{SYMBOLS[first]}{'-=#'[order - 1]}{SYMBOLS[second]}"


def _angle_name(kind: int) -> str:
    return "-".join(SYMBOLS[number] for number in (kind // 10_000, kind // 100 % 100, kind % 100))
