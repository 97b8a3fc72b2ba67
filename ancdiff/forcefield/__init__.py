"""The only room that knows OpenMM: build a molecule, place hydrogens, relax, score, simulate."""
