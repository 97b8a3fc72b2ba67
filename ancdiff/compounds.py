"""The second currency: compounds, many different small molecules with one geometry each.

A `Molecule` has one graph and many conformers; compounds have atoms and positions of their own, and no two need the
same number of atoms. They lie one after the other in flat arrays, so that a set of 130,000 is five arrays.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from ancdiff.errors import InputError

ELEMENTS: dict[str, int] = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
"""The elements of QM9 and their atomic numbers; a model's atom types are these, in this order."""

SYMBOLS: dict[int, str] = {number: symbol for symbol, number in ELEMENTS.items()}
ATOMIC_NUMBERS: tuple[int, ...] = tuple(ELEMENTS.values())


@dataclass(frozen=True, eq=False)
class Compounds:
    """A set of compounds, ragged: those of compound i are the atoms ``first_atom[i]`` up to ``first_atom[i + 1]``.

    ``number`` is the number of a compound in its source (1 … 133,885 in QM9), or its place among samples.
    """

    number: Int[np.ndarray, " compounds"]
    first_atom: Int[np.ndarray, " bounds"]
    atomic_numbers: UInt8[np.ndarray, " atoms"]
    positions_nm: Float[np.ndarray, "atoms 3"]

    def __post_init__(self) -> None:
        sizes = np.diff(self.first_atom)
        whole = len(self.first_atom) == len(self.number) + 1 and self.first_atom[0] == 0 and (sizes > 0).all()
        if not (whole and self.first_atom[-1] == len(self.atomic_numbers) == len(self.positions_nm)):
            raise InputError(
                f"{len(self.number)} compounds, {len(self.first_atom)} bounds, {len(self.atomic_numbers)} atomic "
                f"numbers and {len(self.positions_nm)} positions do not make a set of compounds",
                fix="make it again with the stage that wrote it",
            )

    def __len__(self) -> int:
        return len(self.number)

    @property
    def sizes(self) -> Int[np.ndarray, " compounds"]:
        """Number of atoms of each compound."""
        return np.diff(self.first_atom)

    def atoms(self, i: int) -> tuple[UInt8[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
        """Atomic numbers and positions (nm) of one compound."""
        span = slice(self.first_atom[i], self.first_atom[i + 1])
        return self.atomic_numbers[span], self.positions_nm[span]

    def __iter__(self) -> Iterator[tuple[UInt8[np.ndarray, " n"], Float[np.ndarray, "n 3"]]]:
        return (self.atoms(i) for i in range(len(self)))

    def take(self, chosen: Sequence[int] | Int[np.ndarray, " chosen"]) -> "Compounds":
        """Some of the compounds, in the order given."""
        index = np.asarray(chosen, dtype=np.int64)
        sizes = self.sizes[index]
        first = np.concatenate([[0], np.cumsum(sizes)])
        atoms = np.arange(first[-1]) + np.repeat(self.first_atom[index] - first[:-1], sizes)
        return Compounds(self.number[index], first, self.atomic_numbers[atoms], self.positions_nm[atoms])

    def blocks(self) -> Iterator["Block"]:
        """The compounds in dense blocks of equal size, smallest first; so nothing is ever padded."""
        sizes = self.sizes
        for n in np.unique(sizes):
            members = np.flatnonzero(sizes == n)
            atoms = self.first_atom[members][:, None] + np.arange(n)
            yield Block(members, self.atomic_numbers[atoms], self.positions_nm[atoms])


@dataclass(frozen=True, eq=False)
class Block:
    """Compounds of one size; ``members`` are their places in the set that they come from."""

    members: Int[np.ndarray, " compounds"]
    atomic_numbers: UInt8[np.ndarray, "compounds n"]
    positions_nm: Float[np.ndarray, "compounds n 3"]


def compounds_of(
    members: Iterable[tuple[int, Int[np.ndarray, " _"] | UInt8[np.ndarray, " _"], Float[np.ndarray, "_ 3"]]],
) -> Compounds:
    """A set from (number, atomic numbers, positions in nm) of each compound."""
    listed = list(members)
    sizes = [len(numbers) for _, numbers, _ in listed]
    return Compounds(
        number=np.array([number for number, _, _ in listed], dtype=np.int64),
        first_atom=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        atomic_numbers=np.concatenate([np.zeros(0), *(a for _, a, _ in listed)]).astype(np.uint8),
        positions_nm=np.concatenate([np.zeros((0, 3)), *(x for _, _, x in listed)]).astype(np.float32),
    )
