"""QM9: where its files come from, which compounds are left out, and how it is split.

Reference: Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014); figshare collection 978904.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ancdiff.compounds import Compounds, compounds_of
from ancdiff.dataset.archives import read_archive
from ancdiff.dataset.download import RemoteFile
from ancdiff.dataset.xyz import Geometry
from ancdiff.errors import InputError

_FIGSHARE = "https://ndownloader.figshare.com/files/"

# Sizes and MD5 sums are those that figshare's own interface publishes with the files.
GEOMETRIES = RemoteFile(_FIGSHARE + "3195389", 86_144_227, "md5:ad1ebd51ee7f5b3a6e32e974e5d54012")
UNCHARACTERIZED = RemoteFile(_FIGSHARE + "3195404", 486_752, "md5:a361887bacb427b8a0ce7903d92a53b4")

# Atoms nearer than this lie on top of each other; one farther than this from all others is torn off. Bonds of QM9 are
# 0.096 to 0.16 nm long, so both also show lengths in the wrong unit.
_NEAREST_NM, _FARTHEST_NM = 0.06, 0.25


@dataclass(frozen=True, eq=False)
class ReadCompounds:
    """What an archive held: the sound compounds in order of their number, and what was left out, with its reason."""

    compounds: Compounds
    left_out: tuple[Mapping[str, str | int | None], ...]
    excluded: int


def read_compounds(source: Path, *, excluded: frozenset[int] = frozenset()) -> ReadCompounds:
    """Read and check every compound of a source; those whose number is in ``excluded`` are counted and dropped.

    A compound without a number takes its place in the source, counted from 1.

    Raises:
        InputError: the source is missing, damaged or of another kind, or no sound compound is in it.
    """
    kept: dict[int, Geometry] = {}
    left_out: list[Mapping[str, str | int | None]] = []
    dropped = 0
    for place, (name, found) in enumerate(read_archive(source), start=1):
        number = None if isinstance(found, str) else found.number or place
        reason = found if isinstance(found, str) else geometry_problem(found)
        if number in excluded:
            dropped += 1
        elif reason is None and number in kept:
            left_out.append({"name": name, "number": number, "reason": f"duplicate: number {number} is there already"})
        elif reason is None and number is not None and isinstance(found, Geometry):
            kept[number] = found
        else:
            left_out.append({"name": name, "number": number, "reason": reason})
    if not kept:
        reasons = f"; the first: {left_out[0]['reason']}" if left_out else ""
        raise InputError(f"no sound compound is in this file{reasons}", where=str(source))
    members = ((n, kept[n].atomic_numbers, kept[n].positions_nm) for n in sorted(kept))
    return ReadCompounds(compounds_of(members), tuple(left_out), dropped)


def geometry_problem(geometry: Geometry) -> str | None:
    """Why a geometry cannot be a molecule, or None."""
    x = geometry.positions_nm.astype(np.float64)
    if len(x) < 2:
        return "too small: a single atom has no shape"
    distance = np.linalg.norm(x[:, None] - x[None, :], axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.min(axis=1)
    if nearest.min() < _NEAREST_NM:
        return f"overlap: two atoms are {nearest.min():.4f} nm apart"
    if nearest.max() > _FARTHEST_NM:
        return f"torn: atom {int(nearest.argmax()) + 1} is {nearest.max():.3f} nm away from every other"
    return None


def read_excluded(path: Path) -> frozenset[int]:
    """Numbers of the compounds to leave out: the first word of every line that starts with a whole number.

    The list of QM9 names 3,054 compounds whose geometries failed the authors' consistency check.

    Raises:
        InputError: the file is missing or has no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"this list cannot be read: {error.strerror}", where=str(path)) from error
    numbers = frozenset(int(words[0]) for line in lines if (words := line.split()) and words[0].isdigit())
    if not numbers:
        raise InputError("no line starts with the number of a compound", where=str(path), fix="hand in the list itself")
    return numbers


def part_sizes(n: int, shares: Sequence[int]) -> tuple[int, ...]:
    """Sizes of the parts of n compounds in proportion to ``shares``, by largest remainders.

    Raises:
        InputError: a part would be empty.
    """
    exact = np.array(shares, dtype=np.float64) * n / sum(shares)
    sizes = np.floor(exact).astype(np.int64)
    for part in np.argsort(-(exact - sizes), kind="stable")[: n - int(sizes.sum())]:
        sizes[part] += 1
    if (sizes < 1).any():
        raise InputError(f"{n} compounds are too few for parts of {' : '.join(map(str, shares))}")
    return tuple(int(size) for size in sizes)


def split_parts(n: int, shares: Sequence[int], seed: int) -> tuple[Int[np.ndarray, " _"], ...]:
    """Places (0 … n − 1) of the compounds of each part, in random order from ``seed``.

    Seed 0 and shares of 100,000 : 17,748 : 13,083 give EDM's own split of the 130,831 compounds (its numbers come from
    the legacy generator, whose stream NumPy keeps for good).
    """
    order = np.random.RandomState(seed).permutation(n)
    return tuple(np.split(order, np.cumsum(part_sizes(n, shares))[:-1]))
