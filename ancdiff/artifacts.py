"""Atomic save and load of the currency. A file is whole or it is not there.

An ensemble is a pair that standard tools open: ``topology.pdb`` and a DCD trajectory beside it. The PDB file of a small
molecule carries its bond orders (repeated CONECT records, as RDKit, Open Babel and PyMOL read them) and its charges.
DCD keeps float32 (in Å), so positions come back to a relative 1e-7; XTC would round to 0.001 nm. Every artifact has a
JSON beside it (same name, ``.json``) that says what made it.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ancdiff.chemistry import CONFORMER_FILES, MOLECULE_FILES, is_molecule_file, read_conformers, read_molecule_file
from ancdiff.errors import InputError
from ancdiff.molecules import Ensemble, Molecule, natural_stereocentres
from ancdiff.units import ANGSTROM_PER_NM

_DCD_TITLES_AT = 100  # after the 92-byte header record, the length of the title record and the number of titles

_REMARK = "REMARK   1 WRITTEN BY ANCDIFF"
_CHEMISTRY = "REMARK   1 BOND ORDERS: CONECT RECORDS AS OFTEN AS THE ORDER; FORMAL CHARGES: COLUMNS 79-80"
_STEREOCENTRE, _CIS = "REMARK   1 STEREOCENTRE", "REMARK   1 CIS"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file in the same folder, then rename it to ``path``.

    The temporary name keeps the suffix (writers choose a format by it) and starts with a dot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as filled:
            os.fsync(filled.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, keys sorted; NaN and infinity are errors."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"this is not valid JSON: {error}", where=str(path)) from error


def write_table(path: Path, table: pd.DataFrame, *, tsv: bool = False) -> None:
    """Write a Parquet table atomically; with ``tsv`` also a TSV beside it for a person to read."""
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
    if tsv:
        text = table.to_csv(sep="\t", index=False, float_format="%.6g")
        write_text(path.with_suffix(".tsv"), text)


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table.

    Raises:
        InputError: the file is missing or is not Parquet.
    """
    try:
        return pd.read_parquet(_existing(path))
    except (ValueError, OSError) as error:
        raise InputError(f"this is not a Parquet table: {error}", where=str(path)) from error


def read_molecule(topology: Path, *, name: str | None = None) -> Molecule:
    """Read a molecule from a PDB, mmCIF, SDF or MOL file; its name is that of the folder unless given.

    Bonds come from the file's CONECT records and the standard residues; of a file that `write_topology` wrote, from
    the CONECT records alone, which are complete (names would bond residues across a chain break).

    Raises:
        InputError: the file is missing or unreadable, or has no atoms.
    """
    import mdtraj

    if is_molecule_file(topology):
        return read_molecule_file(_existing(topology), name=name or topology.stem)
    try:
        top = mdtraj.load_topology(str(_existing(topology)))
    except Exception as error:  # mdtraj's readers raise whatever their parsers do
        raise InputError(
            f"this structure cannot be read: {error}",
            where=str(topology),
            fix="hand in a PDB or mmCIF file with one MODEL of the molecule, or an SDF file",
        ) from error
    molecule = molecule_of(top, name or topology.resolve().parent.name)
    lines = _written_lines(topology)
    if lines is None:
        return molecule
    pairs = [(int(line[6:11]) - 1, int(line[11:16]) - 1) for line in lines if line.startswith("CONECT")]
    bonds, orders = np.unique(np.array(pairs, dtype=np.int64).reshape(-1, 2), axis=0, return_counts=True)
    molecule = replace(molecule, bonds=bonds)
    return _with_chemistry(molecule, orders, lines) if _CHEMISTRY in lines else molecule


def read_structure(topology: Path) -> np.ndarray | None:
    """Coordinates (nm, float64) of a topology file's first model; None where it has none."""
    import mdtraj

    if topology.suffix.lower() not in (".pdb", ".ent", ".cif", ".pdbx", ".gro"):
        return None
    try:
        return np.asarray(mdtraj.load_frame(str(_existing(topology)), 0).xyz[0], dtype=np.float64)
    except InputError:
        raise
    except Exception:  # a file without coordinates is a topology all the same
        return None


def molecule_of(top: Any, name: str) -> Molecule:
    """The molecule of an mdtraj topology."""
    atoms = list(top.atoms)
    if not atoms:
        raise InputError("this structure has no atoms", where=name)
    atom_names = tuple(a.name for a in atoms)
    residue_names = tuple(r.name for r in top.residues)
    residue_of_atom = np.array([a.residue.index for a in atoms], dtype=np.int64)
    bonds = np.array(sorted({tuple(sorted((a.index, b.index))) for a, b in top.bonds}), dtype=np.int64).reshape(-1, 2)
    return Molecule(
        name=name,
        atom_names=atom_names,
        elements=tuple(a.element.symbol if a.element else "VS" for a in atoms),
        residue_names=residue_names,
        residue_of_atom=residue_of_atom,
        bonds=bonds,
        stereocentres=natural_stereocentres(atom_names, residue_names, residue_of_atom),
    )


def write_topology(path: Path, molecule: Molecule, positions_nm: np.ndarray) -> None:
    """Write a molecule with one set of coordinates as PDB, with CONECT records for all bonds.

    Of a small molecule also what coordinates alone do not tell: bond orders, charges, and which hand and which side of
    its double bonds are its own, whatever those of the coordinates are.
    """
    charges = molecule.formal_charges or (0,) * molecule.n_atoms
    lines = [_REMARK]
    if molecule.bond_orders is not None:
        lines.append(_CHEMISTRY)
        for remark, rows in ((_STEREOCENTRE, molecule.stereocentres), (_CIS, molecule.cis)):
            lines += [f"{remark} {' '.join(str(atom + 1) for atom in row)}" for row in rows]
    for i, (name, element) in enumerate(zip(molecule.atom_names, molecule.elements, strict=True)):
        residue = int(molecule.residue_of_atom[i])
        x, y, z = (float(v) * ANGSTROM_PER_NM for v in positions_nm[i])
        padded = name[:4] if len(name) >= 4 else f" {name}"
        charge = f"{abs(charges[i])}{'+' if charges[i] > 0 else '-'}" if charges[i] else "  "
        lines.append(
            f"ATOM  {i + 1:5d} {padded:<4s} {molecule.residue_names[residue]:>3s} A{residue + 1:4d}    "
            f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2s}{charge}"
        )
    lines.append(
        f"TER   {molecule.n_atoms + 1:5d}      {molecule.residue_names[-1]:>3s} A{len(molecule.residue_names):4d}"
    )
    orders = molecule.bond_orders or (1,) * len(molecule.bonds)
    for (a, b), order in zip(molecule.bonds, orders, strict=True):
        lines += [f"CONECT{a + 1:5d}{b + 1:5d}"] * order
    write_text(path, "\n".join([*lines, "END", ""]))


def write_ensemble(path: Path, ensemble: Ensemble, made_by: Mapping[str, Any] | None = None) -> None:
    """Write ``topology.pdb``, the DCD trajectory ``path`` and its record, in this order of appearance.

    The trajectory comes last: where it is, the others are.

    Raises:
        InputError: the ensemble is empty.
    """
    if len(ensemble) == 0:
        raise InputError("there are no conformers to write", where=str(path), fix="look why the stage before made none")
    from mdtraj.formats import DCDTrajectoryFile

    def write_dcd(temporary: Path) -> None:
        with DCDTrajectoryFile(str(temporary), "w", force_overwrite=True) as dcd:
            dcd.write(np.asarray(ensemble.positions_nm, dtype=np.float32) * np.float32(ANGSTROM_PER_NM))
        _fix_dcd_titles(temporary)

    write_topology(path.parent / "topology.pdb", ensemble.molecule, ensemble.positions_nm[0])
    if made_by is not None:
        write_json(path.with_suffix(".json"), made_by)
    write_atomically(path, write_dcd)


def _fix_dcd_titles(path: Path) -> None:
    """Overwrite a DCD's two title lines: the writer puts the time and stray memory there, and equal data must be equal
    files.
    """
    with open(path, "r+b") as handle:
        handle.seek(_DCD_TITLES_AT)
        handle.write(b"WRITTEN BY ANCDIFF".ljust(80) + b" " * 80)


@contextmanager
def quiet_reader() -> Iterator[None]:
    """Nothing on standard output meanwhile: mdtraj's DCD reader prints lines of its own from C at every file."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def read_ensemble(path: Path, *, topology: Path | None = None, name: str | None = None) -> Ensemble:
    """Read an ensemble; the topology is ``topology.pdb`` beside the trajectory unless given.

    Any trajectory that mdtraj reads will do (DCD, XTC, NetCDF …); with an SDF or MOL file as topology also SDF and XYZ,
    whose records are compared with it one by one (`Ensemble.refused`).

    Raises:
        InputError: a file is missing, truncated or unreadable, has no frames, or has other atoms than the topology.
    """
    import mdtraj

    topology = topology or path.parent / "topology.pdb"
    molecule = read_molecule(topology, name=name)
    chemical = is_molecule_file(topology)
    if chemical and path.suffix.lower() in CONFORMER_FILES:
        return Ensemble(molecule, *read_conformers(_existing(path), molecule))
    if path.suffix.lower() in MOLECULE_FILES:
        raise InputError(
            "conformers in an SDF file need an SDF file as topology",
            where=f"{path} (topology: {topology})",
            fix=f"type: --topology {path}",
        )
    try:
        with quiet_reader():
            top = _mdtraj_topology(molecule) if chemical else mdtraj.load_topology(str(topology))
            trajectory = mdtraj.load(str(_existing(path)), top=top)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"this trajectory cannot be read with its topology: {error}",
            where=f"{path} (topology: {topology})",
            fix="hand in a whole trajectory of the same atoms as the topology",
        ) from error
    if trajectory.n_frames == 0:
        raise InputError("this trajectory has no frames", where=str(path), fix="hand in at least one conformer")
    claimed = dcd_frames(path)
    if claimed is not None and claimed > trajectory.n_frames:
        raise InputError(
            f"this trajectory is cut short: {trajectory.n_frames} of {claimed} frames are there",
            where=str(path),
            fix="copy or make it again; to keep what is there, type: mdconvert -o whole.dcd " + path.name,
        )
    return Ensemble(molecule, np.ascontiguousarray(trajectory.xyz, dtype=np.float32))


def _mdtraj_topology(molecule: Molecule) -> Any:
    """The mdtraj topology of a molecule of one residue, to read trajectories with."""
    import mdtraj

    top = mdtraj.Topology()
    residue = top.add_residue(molecule.residue_names[0], top.add_chain())
    for name, element in zip(molecule.atom_names, molecule.elements, strict=True):
        top.add_atom(name, mdtraj.element.get_by_symbol(element), residue)
    return top


def dcd_frames(path: Path) -> int | None:
    """Number of frames that a DCD file's header promises, None for other formats. A cut file holds fewer."""
    if path.suffix != ".dcd":
        return None
    with open(path, "rb") as handle:
        header = handle.read(12)
    order = "little" if header[:4] == (84).to_bytes(4, "little") else "big"  # the first record has 84 bytes
    return int.from_bytes(header[8:12], order)


def _written_lines(path: Path) -> list[str] | None:
    """Lines of a file that `write_topology` wrote; None for others."""
    if path.suffix != ".pdb":
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines if lines[:1] == [_REMARK] else None


def _with_chemistry(molecule: Molecule, orders: np.ndarray, lines: list[str]) -> Molecule:
    """The molecule with what `write_topology` wrote of its chemistry."""
    charges = [line[78:80].strip() for line in lines if line.startswith("ATOM")]

    def rows(remark: str) -> np.ndarray:
        found = [line.removeprefix(remark).split() for line in lines if line.startswith(f"{remark} ")]
        return np.array(found, dtype=np.int64).reshape(-1, 4) - 1

    return replace(
        molecule,
        atom_names=tuple(f"{element}{i + 1}" for i, element in enumerate(molecule.elements)),
        stereocentres=rows(_STEREOCENTRE),
        cis=rows(_CIS),
        bond_orders=tuple(int(order) for order in orders),
        formal_charges=tuple(int(text[::-1]) if text else 0 for text in charges),
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), fix="check the path, or run the stage that makes it")
    return path
