"""Sequences of capped peptides: which residues there are, and whether a sequence can be built."""

import difflib

AMINO_ACIDS: tuple[str, ...] = (
    *("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE"),
    *("LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL"),
)


def check_sequence(sequence: str) -> tuple[str, ...]:
    """Residue names of a capped peptide, ``ACE-…-NME``; imports nothing heavy, so that it runs before the first job.

    Raises:
        ValueError: the sequence cannot be built; says which residue, where, and what to type.
    """
    names = tuple(sequence.split("-"))
    example = "write three-letter names between the caps, e.g. ACE-ALA-NME"
    for place, name in enumerate(names, start=1):
        at = f"residue {place} of '{sequence}'"
        if name in ("ACE", "NME"):
            wanted, end = (1, "start") if name == "ACE" else (len(names), "end")
            if place != wanted:
                raise ValueError(f"{at}: the cap {name} belongs at the {end}; {example}")
        elif name not in AMINO_ACIDS:
            near = difflib.get_close_matches(name.upper(), AMINO_ACIDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(AMINO_ACIDS)}"
            raise ValueError(f"{at}: '{name}' is not a standard amino acid; {hint}; {example}")
    if names[0] != "ACE" or names[-1] != "NME":
        raise ValueError(f"'{sequence}' has a free end; type ACE-…-NME: charged termini cannot be built; {example}")
    if len(names) < 3:
        raise ValueError(f"'{sequence}' has no amino acid between its caps; {example}")
    return names
