"""Compounds on disk: safetensors for the house, SDF for viewers, each written atomically."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ancdiff.artifacts import write_atomically, write_json, write_text
from ancdiff.bonds import bond_orders
from ancdiff.compounds import SYMBOLS, Compounds
from ancdiff.errors import InputError
from ancdiff.units import ANGSTROM_PER_NM

_ARRAYS = ("number", "first_atom", "atomic_numbers", "positions_nm")


def write_compounds(path: Path, compounds: Compounds, record: Mapping[str, Any]) -> None:
    """Write a set of compounds, and what made it beside it (``.json``)."""
    arrays = {name: np.ascontiguousarray(getattr(compounds, name)) for name in _ARRAYS}
    write_json(path.with_suffix(".json"), record)
    write_atomically(path, lambda temporary: save_file(arrays, temporary))


def read_compounds(path: Path) -> Compounds:
    """Read a set of compounds.

    Raises:
        InputError: the file is missing or damaged, or holds something else.
    """
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), fix="run the stage that makes it")
    try:
        arrays = load_file(path)
        return Compounds(**{name: arrays[name] for name in _ARRAYS})
    except InputError:
        raise
    except Exception as error:  # safetensors raises its own kinds
        raise InputError(
            f"this is not a set of compounds: {error}", where=str(path), fix="delete it and run its stage again"
        ) from error


def write_sdf(path: Path, compounds: Compounds, *, title: str) -> None:
    """Write compounds as SDF (V2000, Å), which viewers open; bonds are those that their distances tell."""
    write_text(path, "".join(sdf_record(*atoms, title=f"{title}_{i}") for i, atoms in enumerate(compounds)))


def sdf_record(atomic_numbers: np.ndarray, positions_nm: np.ndarray, *, title: str) -> str:
    """One V2000 record with its ``$$$$``; positions to 0.0001 Å, as the form has it."""
    orders = bond_orders(atomic_numbers, positions_nm)
    first, second = np.nonzero(np.triu(orders))
    lines = [title, "  ancdiff", "", f"{len(atomic_numbers):3d}{len(first):3d}  0  0  0  0  0  0  0  0999 V2000"]
    for number, (x, y, z) in zip(atomic_numbers, positions_nm.astype(np.float64) * ANGSTROM_PER_NM, strict=True):
        lines.append(f"{x:10.4f}{y:10.4f}{z:10.4f} {SYMBOLS[int(number)]:<3} 0  0  0  0  0  0  0  0  0  0  0  0")
    lines += [f"{i + 1:3d}{j + 1:3d}{orders[i, j]:3d}  0" for i, j in zip(first, second, strict=True)]
    return "\n".join([*lines, "M  END", "$$$$", ""])
