"""Heavy-atom graphs of the standard amino acids and the two caps, as SMILES with PDB atom names.

A residue's SMILES starts at its amide nitrogen and ends at its carbonyl, so that a peptide is the plain
concatenation of its residues' SMILES. ``@@`` at Cα reads N, H, Cβ, C clockwise from N: the L configuration.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Residue:
    """SMILES of a residue's heavy atoms inside a chain, and the atoms' PDB names in SMILES order."""

    smiles: str
    names: tuple[str, ...]


def _residue(smiles: str, names: str) -> Residue:
    return Residue(smiles, tuple(names.split()))


RESIDUES: dict[str, Residue] = {
    "ACE": _residue("CC(=O)", "CH3 C O"),
    "NME": _residue("NC", "N C"),
    "ALA": _residue("N[C@@H](C)C(=O)", "N CA CB C O"),
    "ARG": _residue("N[C@@H](CCCNC(=[NH2+])N)C(=O)", "N CA CB CG CD NE CZ NH1 NH2 C O"),
    "ASN": _residue("N[C@@H](CC(=O)N)C(=O)", "N CA CB CG OD1 ND2 C O"),
    "ASP": _residue("N[C@@H](CC(=O)[O-])C(=O)", "N CA CB CG OD1 OD2 C O"),
    "CYS": _residue("N[C@@H](CS)C(=O)", "N CA CB SG C O"),
    "GLN": _residue("N[C@@H](CCC(=O)N)C(=O)", "N CA CB CG CD OE1 NE2 C O"),
    "GLU": _residue("N[C@@H](CCC(=O)[O-])C(=O)", "N CA CB CG CD OE1 OE2 C O"),
    "GLY": _residue("NCC(=O)", "N CA C O"),
    "HIS": _residue("N[C@@H](Cc1cnc[nH]1)C(=O)", "N CA CB CG CD2 NE2 CE1 ND1 C O"),
    "ILE": _residue("N[C@@H]([C@@H](C)CC)C(=O)", "N CA CB CG2 CG1 CD1 C O"),
    "LEU": _residue("N[C@@H](CC(C)C)C(=O)", "N CA CB CG CD1 CD2 C O"),
    "LYS": _residue("N[C@@H](CCCC[NH3+])C(=O)", "N CA CB CG CD CE NZ C O"),
    "MET": _residue("N[C@@H](CCSC)C(=O)", "N CA CB CG SD CE C O"),
    "PHE": _residue("N[C@@H](Cc1ccccc1)C(=O)", "N CA CB CG CD1 CE1 CZ CE2 CD2 C O"),
    "PRO": _residue("N1[C@@H](CCC1)C(=O)", "N CA CB CG CD C O"),
    "SER": _residue("N[C@@H](CO)C(=O)", "N CA CB OG C O"),
    "THR": _residue("N[C@@H]([C@H](O)C)C(=O)", "N CA CB OG1 CG2 C O"),
    "TRP": _residue("N[C@@H](Cc1c[nH]c2ccccc12)C(=O)", "N CA CB CG CD1 NE1 CE2 CZ2 CH2 CZ3 CE3 CD2 C O"),
    "TYR": _residue("N[C@@H](Cc1ccc(O)cc1)C(=O)", "N CA CB CG CD1 CE1 CZ OH CE2 CD2 C O"),
    "VAL": _residue("N[C@@H](C(C)C)C(=O)", "N CA CB CG1 CG2 C O"),
}

# Side-chain torsions whose starts are drawn from the three staggered positions.
CHI_TORSIONS: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "ARG": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD"), ("CB", "CG", "CD", "NE")),
    "ASN": (("N", "CA", "CB", "CG"),),
    "ASP": (("N", "CA", "CB", "CG"),),
    "CYS": (("N", "CA", "CB", "SG"),),
    "GLN": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD")),
    "GLU": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD")),
    "HIS": (("N", "CA", "CB", "CG"),),
    "ILE": (("N", "CA", "CB", "CG1"), ("CA", "CB", "CG1", "CD1")),
    "LEU": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD1")),
    "LYS": (
        ("N", "CA", "CB", "CG"),
        ("CA", "CB", "CG", "CD"),
        ("CB", "CG", "CD", "CE"),
        ("CG", "CD", "CE", "NZ"),
    ),
    "MET": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "SD"), ("CB", "CG", "SD", "CE")),
    "PHE": (("N", "CA", "CB", "CG"),),
    "SER": (("N", "CA", "CB", "OG"),),
    "THR": (("N", "CA", "CB", "OG1"),),
    "TRP": (("N", "CA", "CB", "CG"),),
    "TYR": (("N", "CA", "CB", "CG"),),
    "VAL": (("N", "CA", "CB", "CG1"),),
}
