"""A small archive of made-up compounds, for the tests that run the stages."""

import io
import tarfile
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

SMILES = ("C", "CC", "CO", "CN", "C=O", "C#N", "CF", "C=C", "CCO", "CC=O", "OCO", "C1CC1", "NC=O", "CC#N")
"""The last two are on the list of what to leave out."""


def write_archive(folder: Path) -> Path:
    """``compounds.tar.bz2`` (plain xyz, one of them broken) and ``excluded.txt`` in a folder."""
    with tarfile.open(folder / "compounds.tar.bz2", "w:bz2") as tar:
        for number, smiles in enumerate(SMILES, start=1):
            _add(tar, f"set/mol_{number:06d}.xyz", _xyz(smiles))
        _add(tar, "set/mol_000099.xyz", "7\n\nC 0 0 0\n")
    (folder / "excluded.txt").write_text("left out\n 13 NC=O\n 14 CC#N\n")
    return folder / "compounds.tar.bz2"


def _xyz(smiles: str) -> str:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=7)
    rdForceFieldHelpers.MMFFOptimizeMolecule(molecule)
    lines = [str(molecule.GetNumAtoms()), smiles]
    for atom, (x, y, z) in zip(molecule.GetAtoms(), molecule.GetConformer().GetPositions(), strict=True):
        lines.append(f"{atom.GetSymbol()} {x:.8f} {y:.8f} {z:.8f}")
    return "\n".join(lines) + "\n"


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text.encode())
    tar.addfile(info, io.BytesIO(text.encode()))
