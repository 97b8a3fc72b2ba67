"""The molecules of which `simulate` makes conformers: by SMILES, or out of a file; and the check of what it made."""

from pathlib import Path
from typing import Any

from ancdiff.chemistry import (
    graph_of_molecule,
    graph_of_positions,
    graph_of_record,
    graph_of_smiles,
    is_molecule_file,
    plain_smiles,
)
from ancdiff.compounds import SYMBOLS
from ancdiff.config import ConformerSettings
from ancdiff.dataset.archives import read_archive
from ancdiff.dataset.frames import MdFrames
from ancdiff.errors import InputError


def read_graph(settings: ConformerSettings, *, where: str) -> Any:
    """The RDKit Mol of a molecule: without a conformer (SMILES), or with that of the file.

    Raises:
        InputError: a bad SMILES; the file is missing or damaged, or has no such record.
    """
    if settings.smiles is not None:
        return graph_of_smiles(settings.smiles, where=where)
    path = Path(settings.file or "")
    if not path.is_file():
        raise InputError("there is no such file", where=f"{where}: {path}", fix="check the path in 'conformers'")
    if is_molecule_file(path):
        return graph_of_record(path, settings.record)
    for place, (name, found) in enumerate(read_archive(path), start=1):
        if isinstance(found, str) or (found.number or place) != settings.record:
            continue
        elements = [SYMBOLS[int(number)] for number in found.atomic_numbers]
        return graph_of_positions(elements, found.positions_nm, where=f"{path}: {name}")
    raise InputError(
        f"there is no sound compound {settings.record} in this archive", where=str(path), fix="look up its number"
    )


def check_conformers(frames: MdFrames, settings: ConformerSettings) -> MdFrames:
    """The same frames, of the molecule that the configuration says.

    Raises:
        InputError: they are of another one, or come without bond orders.
    """
    molecule = frames.molecule
    again = f"make them again: ancdiff simulate --system {molecule.name} --md training (and reference)"
    if molecule.bond_orders is None:
        raise InputError("this topology has no bond orders", where=str(frames.files[0]), fix=again)
    if settings.smiles is None:
        return frames
    wanted = plain_smiles(graph_of_smiles(settings.smiles, where=molecule.name))
    found = plain_smiles(graph_of_molecule(molecule))
    if wanted != found:
        raise InputError(
            f"system {molecule.name} is {wanted} in the configuration, but its conformers are of {found}",
            where=str(frames.files[1]),
            fix=again,
        )
    return frames
