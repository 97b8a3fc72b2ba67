"""Geometries as text: plain xyz, the raw files of QM9, and SDF. Functions of text, without the disk."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from ancdiff.compounds import ELEMENTS
from ancdiff.errors import InputError
from ancdiff.units import ANGSTROM_PER_NM

_FIX_XYZ = "an xyz file is: the number of atoms, a comment line, then a line 'element x y z' (Å) for each atom"
_FIX_SDF = "write SDF in the V2000 form, e.g. with RDKit or Open Babel"
_NUMBER_IN_NAME = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True, eq=False)
class Geometry:
    """One compound as it stands in a file; ``number`` is None where neither the file nor its name tells one."""

    atomic_numbers: UInt8[np.ndarray, " atoms"]
    positions_nm: Float[np.ndarray, "atoms 3"]
    number: int | None = None


def parse_xyz(text: str, *, where: str) -> Geometry:
    """One compound from a plain xyz file or a raw file of QM9.

    A raw file has a property line (``gdb 1  157.7 …``) for its comment, a charge behind each position, and three more
    lines (frequencies, SMILES, InChI). Its numbers may be written ``1.2*^-5``, which is 1.2e-5.

    Raises:
        InputError: a broken line, a wrong number of atoms, an unknown element, or a position that is no number.
    """
    lines = text.splitlines()
    try:
        atoms = int(lines[0]) if lines else 0
    except ValueError:
        atoms = 0
    if atoms < 1:
        first = lines[0].strip() if lines else ""
        raise InputError(f"line 1 is not a number of atoms: '{first[:40]}'", where=where, fix=_FIX_XYZ)
    raw = len(lines) > 1 and lines[1].split()[:1] == ["gdb"]
    body, rest = lines[2 : 2 + atoms], lines[2 + atoms :]
    if len(body) < atoms:
        raise InputError(f"{atoms} atoms are promised, {len(body)} lines of atoms are there", where=where, fix=_FIX_XYZ)
    if not raw and any(line.strip() for line in rest):
        raise InputError(f"there are lines after the {atoms} atoms that line 1 promises", where=where, fix=_FIX_XYZ)
    rows = [_atom_line(line, place, where) for place, line in enumerate(body, start=3)]
    number = _number_of_raw(lines[1], where) if raw else number_in_name(where)
    numbers = np.array([element for element, _ in rows], dtype=np.uint8)
    positions_nm = np.array([position for _, position in rows]) / ANGSTROM_PER_NM
    return Geometry(numbers, positions_nm.astype(np.float32), number)


def number_in_name(name: str) -> int | None:
    """The last number in a file's name: 1 of ``dsgdb9nsd_000001.xyz``."""
    found = _NUMBER_IN_NAME.search(name.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    return int(found[1]) if found else None


def mathematica_float(word: str) -> float:
    """A number as QM9 writes it: ``-6.2*^-6`` is −6.2e-6."""
    return float(word.replace("*^", "e"))


def _number_of_raw(line: str, where: str) -> int:
    words = line.split()
    if len(words) > 1 and words[1].isdigit():
        return int(words[1])
    raise InputError(f"line 2 has no number after 'gdb': '{line.strip()[:40]}'", where=where)


def _atom_line(line: str, place: int, where: str) -> tuple[int, list[float]]:
    words = line.split()
    if len(words) < 4:
        raise InputError(f"line {place} is not 'element x y z': '{line.strip()[:40]}'", where=where, fix=_FIX_XYZ)
    if words[0] not in ELEMENTS:
        raise InputError(
            f"line {place}: element '{words[0]}' is not known", where=where, fix=f"known are {', '.join(ELEMENTS)}"
        )
    try:
        position = [mathematica_float(word) for word in words[1:4]]
    except ValueError as error:
        raise InputError(
            f"line {place}: a position is not a number: '{line.strip()[:40]}'", where=where, fix=_FIX_XYZ
        ) from error
    if not np.isfinite(position).all():
        raise InputError(f"line {place}: a position is not finite: '{line.strip()[:40]}'", where=where)
    return ELEMENTS[words[0]], position


def split_sdf(text: str) -> Iterator[str]:
    """The records of an SDF file, without their ``$$$$`` lines."""
    for record in re.split(r"(?m)^\$\$\$\$[ \t]*\n?", text):
        if record.strip():
            yield record


def parse_sdf_record(record: str, *, where: str) -> Geometry:
    """One compound from a V2000 record; its number is the last one in its title (``gdb_7``). Bonds are not read.

    Raises:
        InputError: the record is not V2000, is cut short, or has an unknown element or a broken position.
    """
    lines = record.splitlines()
    counts = lines[3] if len(lines) > 3 else ""
    if "V3000" in counts or not counts[:3].strip().isdigit():
        raise InputError(f"line 4 is not a V2000 counts line: '{counts.strip()[:40]}'", where=where, fix=_FIX_SDF)
    atoms = int(counts[:3])
    body = lines[4 : 4 + atoms]
    if atoms < 1 or len(body) < atoms:
        raise InputError(f"{atoms} atoms are promised, {len(body)} lines are there", where=where, fix=_FIX_SDF)
    rows = []
    for place, line in enumerate(body, start=5):
        # Columns are fixed: three of 10 for the position, one blank, three for the element.
        rows.append(_atom_line(" ".join((line[31:34], line[:10], line[10:20], line[20:30])), place, where))
    return Geometry(
        np.array([element for element, _ in rows], dtype=np.uint8),
        (np.array([position for _, position in rows]) / ANGSTROM_PER_NM).astype(np.float32),
        number_in_name(lines[0].strip()) if lines[0].strip() else None,
    )
