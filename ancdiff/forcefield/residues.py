"""Residues that the force fields know: heavy-atom graphs, names in other programs, and what is solvent.

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
    "NH2": _residue("N", "N"),
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

CAPS = ("ACE", "NME", "NH2")

# Names that the Protein Data Bank gives to the D amino acids.
D_RESIDUES = (
    *("DAL", "DAR", "DSG", "DAS", "DCY", "DGN", "DGL", "DHI", "DIL", "DLE"),
    *("DLY", "MED", "DPN", "DPR", "DSN", "DTH", "DTR", "DTY", "DVA"),
)

# A name that says a protonation state or a bridge: the standard residue, and Amber's name of the state.
STATE_NAMES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("HID", "HSD", "HISA", "HISD"), ("HIS", "HID")),
    **dict.fromkeys(("HIE", "HSE", "HISB", "HISE"), ("HIS", "HIE")),
    **dict.fromkeys(("HIP", "HSP", "HISH"), ("HIS", "HIP")),
    **dict.fromkeys(("ASH", "ASPH", "ASPP"), ("ASP", "ASH")),
    **dict.fromkeys(("GLH", "GLUH", "GLUP"), ("GLU", "GLH")),
    **dict.fromkeys(("LYN", "LSN"), ("LYS", "LYN")),
    **dict.fromkeys(("CYX", "CYS2"), ("CYS", "CYX")),
}
_OTHER_NAMES = {
    **dict.fromkeys(("HIS1", "HIST"), "HIS"),
    **dict.fromkeys(("CYSH", "CYS1", "CYZ"), "CYS"),
    **dict.fromkeys(("LYSH", "LYP"), "LYS"),
    "NMA": "NME",
    "NAC": "NME",
    "NHE": "NH2",
    "CT2": "NH2",
}
# Water and the ions of a salt solution: implicit solvent and vacuum have neither. A metal ion is none of them.
SOLVENT = frozenset(
    (
        *("HOH", "WAT", "H2O", "TIP", "TIP2", "TIP3", "TIP4", "TP3", "TP4", "SOL", "SPC", "DOD"),
        *("NA", "NA+", "SOD", "CL", "CL-", "CLA", "CIO", "K", "K+", "POT"),
        *("LI", "LI+", "RB", "CS", "BR", "BR-", "IOD"),
    )
)

_TERMINAL_OXYGENS = {"OT1": "O", "OC1": "O", "O1": "O", "OT2": "OXT", "OC2": "OXT", "O2": "OXT"}
_ATOM_NAMES = {
    "ILE": {"CD": "CD1"},
    "ACE": {"CA": "CH3", "CAY": "CH3", "CY": "C", "OY": "O"},
    "NME": {"CH3": "C", "CA": "C", "CAT": "C", "NT": "N"},
    "NH2": {"NT": "N"},
}


def standard_residue(name: str) -> tuple[str, str | None]:
    """Standard name of a residue and the state that its name says, if any: HSE → (HIS, HIE), NALA → (ALA, None)."""
    plain = name.strip().upper()
    for candidate in (plain, plain[1:] if len(plain) == 4 and plain[0] in "NC" else plain):
        if candidate in STATE_NAMES:
            return STATE_NAMES[candidate]
        candidate = _OTHER_NAMES.get(candidate, candidate)
        if candidate in RESIDUES:
            return candidate, None
    return plain, None


def standard_atom(residue: str, name: str) -> str:
    """Standard name of a heavy atom of a standard residue; one that is not known stays as it is."""
    known = _ATOM_NAMES.get(residue, {})
    if name in known:
        return known[name]
    return name if residue in CAPS or residue not in RESIDUES else _TERMINAL_OXYGENS.get(name, name)


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
