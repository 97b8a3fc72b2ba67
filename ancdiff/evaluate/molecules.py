"""Are generated compounds molecules? Stability as EDM counts it, RDKit's opinion, geometry, strain.

Each function takes compounds and gives one number or one row for each of them; `ancdiff.evaluate.resampling` makes
intervals of them. Bonds are told by distances alone (`ancdiff.bond_orders`), as nothing else is known of a sample.
"""

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers
from rdkit.Geometry import Point3D
from scipy.sparse.csgraph import connected_components
from scipy.stats import wasserstein_distance

from ancdiff.bonds import Values, bond_orders, stable_atoms
from ancdiff.compounds import Compounds
from ancdiff.units import ANGSTROM_PER_NM, KJ_PER_KCAL

_BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
_MAX_MMFF_STEPS = 500


def stable_atom_counts(compounds: Compounds) -> Int[np.ndarray, " compounds"]:
    """Number of stable atoms of each compound; a compound is stable where this is the number of its atoms.

    Reference: Hoogeboom et al. 2022 (arXiv 2203.17003), section 5.1.
    """
    counts = np.zeros(len(compounds), dtype=np.int64)
    for block in compounds.blocks():
        counts[block.members] = stable_atoms(block.atomic_numbers, block.positions_nm).sum(-1)
    return counts


def rdkit_molecule(atomic_numbers: UInt8[np.ndarray, " n"], positions_nm: Float[np.ndarray, "n 3"]) -> Chem.RWMol:
    """The compound as RDKit sees it, not yet sanitised: its atoms, the bonds that distances tell, and its positions."""
    molecule = Chem.RWMol()
    for number in atomic_numbers:
        molecule.AddAtom(Chem.Atom(int(number)))
    orders = bond_orders(atomic_numbers, positions_nm)
    for i, j in np.argwhere(np.triu(orders)):
        molecule.AddBond(int(i), int(j), _BOND_TYPES[int(orders[i, j])])
    conformer = Chem.Conformer(len(atomic_numbers))
    for i, position in enumerate(positions_nm.astype(np.float64) * ANGSTROM_PER_NM):
        conformer.SetAtomPosition(i, Point3D(*map(float, position)))
    molecule.AddConformer(conformer)
    return molecule


def canonical_smiles(compounds: Compounds) -> list[str | None]:
    """SMILES of each compound's largest fragment, or None where RDKit cannot make sense of it.

    A compound is valid where there is one, and two are the same where theirs are (hydrogens stand in them, as EDM has
    it; handedness does not). The largest fragment is that with the most atoms.
    """
    with rdBase.BlockLogs():
        return [_smiles(rdkit_molecule(*atoms)) for atoms in compounds]


def _smiles(molecule: Chem.RWMol) -> str | None:
    if Chem.SanitizeMol(molecule, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return None
    fragments = Chem.GetMolFrags(molecule, asMols=True, sanitizeFrags=False)
    largest = max(fragments, key=lambda fragment: fragment.GetNumAtoms())
    smiles = Chem.MolToSmiles(largest, isomericSmiles=False)
    # A second reading finds what the first let through, e.g. aromatic rings that cannot be written with double bonds.
    return smiles if Chem.MolFromSmiles(smiles) is not None else None


def in_one_piece(compounds: Compounds) -> Bool[np.ndarray, " compounds"]:
    """Whether the bonds of each compound join all of its atoms; validity alone looks at the largest fragment only."""
    pieces = [connected_components(bond_orders(*atoms) > 0, directed=False)[0] for atoms in compounds]
    return np.array(pieces, dtype=np.int64) == 1


def first_of_its_kind(smiles: Iterable[str | None]) -> list[bool]:
    """Whether each is the first with its SMILES; False for those that have none."""
    seen: set[str] = set()
    return [s is not None and not (s in seen or seen.add(s)) for s in smiles]


def mean_distance(
    sample: Values, data: Values, *, weights: Float[np.ndarray, " compounds"] | None = None, min_share: float = 0.005
) -> float:
    """Wasserstein-1 distance of each kind's values from the data's, averaged over kinds by their share in the data.

    Kinds rarer than ``min_share`` in the data do not count. A kind that the sample lacks counts with the mean distance
    of the data from their own median. ``weights`` are those of the sample's compounds. NaN where the data have nothing.
    """
    total = sum(len(values) for values, _ in data.values())
    distances, shares = [], []
    for kind, (values, _) in data.items():
        if len(values) < min_share * total:
            continue
        mine, owners = sample.get(kind, (np.zeros(0), np.zeros(0, dtype=np.int64)))
        weight = np.ones(len(mine)) if weights is None else weights[owners]
        there = weight.sum() > 0
        far = (
            wasserstein_distance(mine, values, u_weights=weight) if there else np.abs(values - np.median(values)).mean()
        )
        distances.append(float(far))
        shares.append(len(values))
    return float(np.average(distances, weights=shares)) if shares else float("nan")


def mmff_strain_kj_mol(
    atomic_numbers: UInt8[np.ndarray, " n"], positions_nm: Float[np.ndarray, "n 3"]
) -> tuple[float, str]:
    """MMFF94 energy of a compound above that of the minimum that it relaxes into, and a status.

    Status is ``ok``, or why there is no number (NaN): ``invalid`` (RDKit refuses it), ``no parameters``, ``not
    converged``. Of a compound in several fragments all are relaxed together.
    Reference: Halgren, J. Comput. Chem. 17, 490 (1996), as RDKit has it.
    """
    molecule = rdkit_molecule(atomic_numbers, positions_nm)
    with rdBase.BlockLogs():
        if Chem.SanitizeMol(molecule, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
            return math.nan, "invalid"
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule)
    if properties is None:
        return math.nan, "no parameters"
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(molecule, properties)
    if field is None:
        return math.nan, "no parameters"
    before = field.CalcEnergy()
    for _ in range(4):
        if field.Minimize(maxIts=_MAX_MMFF_STEPS) == 0:
            strain = (before - field.CalcEnergy()) * KJ_PER_KCAL
            return (strain, "ok") if math.isfinite(strain) else (math.nan, "not converged")
    return math.nan, "not converged"
