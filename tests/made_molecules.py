"""Small molecules with conformers, made in milliseconds."""

import numpy as np
from rdkit.Chem import rdDistGeom

from ancdiff.chemistry import graph_of_smiles, molecule_of_graph
from ancdiff.molecules import Molecule


def embedded(smiles: str, conformers: int = 1, seed: int = 7) -> tuple[Molecule, np.ndarray]:
    """A molecule, and conformers of it (nm) as distance geometry gives them."""
    graph = graph_of_smiles(smiles)
    assert len(rdDistGeom.EmbedMultipleConfs(graph, conformers, randomSeed=seed)) == conformers
    return molecule_of_graph(graph, "x"), np.array([c.GetPositions() for c in graph.GetConformers()]) / 10
