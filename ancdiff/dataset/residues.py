"""Names of residues and atoms: one spelling each, whatever program wrote the file.

Simulation programs name protonation states and termini in their own ways (HIE, HSD, CYX, LYSH, NALA; atoms OT1, O1,
ILE CD). Ensembles keep the names of the PDB's chemical component dictionary, and leave the protonation state to
scoring, which decides it once per system.
"""

from ancdiff.sequences import AMINO_ACIDS

CAPS = ("ACE", "NME", "NH2")

RESIDUE_ALIASES: dict[str, str] = {
    # histidine: Amber HID/HIE/HIP, CHARMM HSD/HSE/HSP, GROMACS HISA … HISH, four-letter truncations
    **dict.fromkeys(("HID", "HIE", "HIP", "HSD", "HSE", "HSP", "HISA", "HISB", "HISD", "HISE", "HISH", "HIS1"), "HIS"),
    **dict.fromkeys(("CYX", "CYM", "CYS1", "CYS2", "CYSH", "CYN", "CYZ"), "CYS"),
    **dict.fromkeys(("ASH", "ASPH", "ASPP"), "ASP"),
    **dict.fromkeys(("GLH", "GLUH", "GLUP"), "GLU"),
    **dict.fromkeys(("LYN", "LYSH", "LYP", "LSN"), "LYS"),
    **dict.fromkeys(("ARGN", "ARN"), "ARG"),
    **dict.fromkeys(("TYM", "TYRH"), "TYR"),
    "NMA": "NME",
    "NAC": "NME",
    "NHE": "NH2",
    "CT2": "NH2",
}


def canonical_residue_name(name: str) -> str:
    """The standard three-letter name of a residue; a name that is not known is returned as it is.

    Amber's and GROMACS' terminal forms (NALA, CGLU, NHIE) lose their first letter.
    """
    plain = name.strip().upper()
    plain = RESIDUE_ALIASES.get(plain, plain)
    if len(plain) == 4 and plain[0] in "NC":
        inner = RESIDUE_ALIASES.get(plain[1:], plain[1:])
        if inner in AMINO_ACIDS:
            return inner
    return plain


_BACKBONE = "N-CA CA-C C-O"
_SIDE_CHAINS = {
    "ALA": "CA-CB",
    "ARG": "CA-CB CB-CG CG-CD CD-NE NE-CZ CZ-NH1 CZ-NH2",
    "ASN": "CA-CB CB-CG CG-OD1 CG-ND2",
    "ASP": "CA-CB CB-CG CG-OD1 CG-OD2",
    "CYS": "CA-CB CB-SG",
    "GLN": "CA-CB CB-CG CG-CD CD-OE1 CD-NE2",
    "GLU": "CA-CB CB-CG CG-CD CD-OE1 CD-OE2",
    "GLY": "",
    "HIS": "CA-CB CB-CG CG-ND1 CG-CD2 ND1-CE1 CD2-NE2 CE1-NE2",
    "ILE": "CA-CB CB-CG1 CB-CG2 CG1-CD1",
    "LEU": "CA-CB CB-CG CG-CD1 CG-CD2",
    "LYS": "CA-CB CB-CG CG-CD CD-CE CE-NZ",
    "MET": "CA-CB CB-CG CG-SD SD-CE",
    "PHE": "CA-CB CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ",
    "PRO": "CA-CB CB-CG CG-CD CD-N",
    "SER": "CA-CB CB-OG",
    "THR": "CA-CB CB-OG1 CB-CG2",
    "TRP": "CA-CB CB-CG CG-CD1 CG-CD2 CD1-NE1 NE1-CE2 CD2-CE2 CD2-CE3 CE2-CZ2 CE3-CZ3 CZ2-CH2 CZ3-CH2",
    "TYR": "CA-CB CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ CZ-OH",
    "VAL": "CA-CB CB-CG1 CB-CG2",
}
STANDARD_BONDS: dict[str, tuple[tuple[str, str], ...]] = {
    name: tuple((a, b) for a, _, b in (bond.partition("-") for bond in bonds.split()))
    for name, bonds in {
        **{name: f"{_BACKBONE} {side_chain}" for name, side_chain in _SIDE_CHAINS.items()},
        "ACE": "CH3-C C-O",
        "NME": "N-C",
        "NH2": "",
    }.items()
}
"""Bonds between the heavy atoms of each standard residue; the last residue of a chain may have C-OXT as well."""

HEAVY_ATOMS: dict[str, frozenset[str]] = {
    name: frozenset(atom for bond in bonds for atom in bond) or frozenset({"N"})
    for name, bonds in STANDARD_BONDS.items()
}

WATERS = frozenset({"HOH", "WAT", "H2O", "TIP", "TIP2", "TIP3", "TIP4", "TP3", "TP4", "SOL", "SPC", "DOD"})

_TERMINAL_OXYGENS = {"OT1": "O", "OC1": "O", "O1": "O", "OT2": "OXT", "OC2": "OXT", "O2": "OXT"}
_ATOM_ALIASES: dict[str, dict[str, str]] = {
    **{name: _TERMINAL_OXYGENS for name in AMINO_ACIDS},
    "ILE": {**_TERMINAL_OXYGENS, "CD": "CD1"},
    "ACE": {"CA": "CH3", "CAY": "CH3", "CY": "C", "OY": "O"},
    "NME": {"CH3": "C", "CA": "C", "CAT": "C", "NT": "N"},
    "NH2": {"NT": "N"},
}

_PATCH_CAPS = {"CAY": "ACE", "CY": "ACE", "OY": "ACE", "CAT": "NME"}


def canonical_atom_name(residue: str, name: str) -> str:
    """The standard name of a heavy atom in a residue (already canonical); one that is not known stays as it is."""
    return _ATOM_ALIASES.get(residue, {}).get(name, name)


def patch_cap(residue: str, name: str, all_names: frozenset[str]) -> str | None:
    """The cap that an atom belongs to where CHARMM writes caps as patches inside the first or last amino acid."""
    if residue not in AMINO_ACIDS:
        return None
    if name == "NT":
        return "NME" if "CAT" in all_names else "NH2"
    return _PATCH_CAPS.get(name)
