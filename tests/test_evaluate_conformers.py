"""Coverage, matching and strain on hand-made cases."""

import numpy as np
import pytest
from rdkit.Chem import rdDistGeom

from ancdiff.chemistry import graph_of_smiles, molecule_of_graph
from ancdiff.config import EvaluateSettings
from ancdiff.evaluate.comparison import Measurement
from ancdiff.evaluate.conformers import measure_conformers
from ancdiff.evaluate.coverage import coverage_and_matching
from ancdiff.evaluate.energies import reduced_strain
from ancdiff.evaluate.measure import Energies, EnsembleData
from ancdiff.evaluate.resampling import Sampling, independent
from ancdiff.molecules import Ensemble, Molecule
from ancdiff.testing import alanine_dipeptide

import pandas as pd  # isort: skip

SETTINGS = EvaluateSettings(bootstrap_repeats=40)


def conformers(smiles: str, seeds: tuple[int, ...]) -> tuple[Molecule, np.ndarray]:
    graph = graph_of_smiles(smiles)
    positions = []
    for seed in seeds:
        rdDistGeom.EmbedMolecule(graph, randomSeed=seed)
        positions.append(graph.GetConformer().GetPositions() / 10)
    return molecule_of_graph(graph, "x"), np.array(positions, dtype=np.float32)


def ensemble(
    name: str, molecule: Molecule, positions_nm: np.ndarray, *, halves: bool = False, strain: list[float] | None = None
) -> EnsembleData:
    sampling = independent(len(positions_nm))
    if halves:
        sampling = Sampling(sampling.blocks, np.arange(len(positions_nm)) % 2)
    energies = None if strain is None else Energies(np.array(strain), independent(len(strain)), 0)
    return EnsembleData(name, Ensemble(molecule, positions_nm), sampling, 0, None, strain=energies)


def measured(*data: EnsembleData) -> dict[tuple[str, str], Measurement]:
    return {(m.ensemble, m.metric): m for m in measure_conformers("x", list(data), SETTINGS)}


def test_a_resampled_table_by_hand() -> None:
    rmsd = np.array([[0.01, 0.20, 0.30], [0.02, 0.06, 0.30]])
    found = coverage_and_matching(
        rmsd, generated_weights=np.array([2.0, 0.0]), reference_weights=np.array([0.0, 1.0, 3.0])
    )
    # The second sample and the first reference were not drawn: 0.20 and 0.30 are left, once and three times.
    assert found["mat_r_nm"] == pytest.approx((0.20 + 3 * 0.30) / 4)
    assert found["mat_p_nm"] == pytest.approx(0.20)
    assert (found["cov_r"], found["cov_p"]) == (0.0, 0.0)


def test_the_reference_itself_is_covered_and_one_of_its_conformers_covers_its_share() -> None:
    molecule, two = conformers("CCCCO", (1, 4))
    both = np.concatenate([two[:1], two[:1], two[1:], two[1:]])  # each conformer in either half
    found = measured(
        ensemble("reference", molecule, both, halves=True),
        ensemble("pretrain", molecule, two),
        ensemble("eba_round1", molecule, two[:1]),
    )
    for metric, best in (("cov_r", 1.0), ("cov_p", 1.0), ("mat_r_nm", 0.0), ("mat_p_nm", 0.0)):
        assert found["pretrain", metric].value == pytest.approx(best, abs=1e-6)
        assert found["pretrain", metric].floor == found["reference", metric].value
        assert found["pretrain", metric].floor == pytest.approx(best, abs=1e-6)
    one = {metric: found["eba_round1", metric].value for metric in ("cov_r", "cov_p", "mat_r_nm", "mat_p_nm")}
    assert one["cov_r"] == pytest.approx(0.5)  # the other conformer is farther away than 0.05 nm
    assert one["cov_p"] == 1.0
    assert one["mat_r_nm"] > 0.025
    assert one["mat_p_nm"] == pytest.approx(0.0, abs=1e-6)
    row = found["eba_round1", "cov_r"].row()
    assert 0.0 <= row["low"] <= 0.5 <= row["high"] <= 1.0


def test_swapped_equivalent_atoms_turned_methyls_and_turned_molecules_are_the_same_conformer() -> None:
    molecule, one = conformers("CC(C)(C)O", (1,))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn[:, 0] *= np.linalg.det(turn)
    other = one.copy()
    other[:, [0, 2]] = other[:, [2, 0]]  # two methyl carbons
    other = (other @ turn + 1.0).astype(np.float32)
    hydrogens = np.array(molecule.elements) == "H"
    other[:, hydrogens] += 0.02
    reference = ensemble("reference", molecule, np.concatenate([one, one]), halves=True)
    found = measured(reference, ensemble("pretrain", molecule, other))
    assert found["pretrain", "mat_r_nm"].value < 1e-5


def test_a_mirror_image_is_another_conformer() -> None:
    molecule, one = conformers("C[C@H](F)Cl", (3,))
    mirrored = one * np.array([-1.0, 1.0, 1.0], dtype=np.float32)
    reference = ensemble("reference", molecule, np.concatenate([one, one]), halves=True)
    found = measured(reference, ensemble("pretrain", molecule, mirrored))
    assert found["pretrain", "mat_p_nm"].value > 0.01


def test_the_strain_of_failed_conformers_counts_as_the_highest() -> None:
    molecule, two = conformers("CCO", (1, 2))
    table = pd.DataFrame({"status": ["ok", "ok", "clash", "ok", "ok"], "strain_kj_mol": [5.0, 1.0, 2.0, np.nan, 3.0]})
    np.testing.assert_array_equal(reduced_strain(table, 2.0), [2.5, 0.5, np.inf, np.inf, 1.5])
    few = ensemble("pretrain", molecule, two, strain=[2.5, 0.5, np.inf, np.inf, 1.5])
    most = ensemble("eba_round1", molecule, two, strain=[1.0, np.inf, np.inf])
    found = measured(few, most)
    assert found["pretrain", "median_strain_kt"].value == pytest.approx(2.5)
    assert np.isnan(found["eba_round1", "median_strain_kt"].value)
    assert found["eba_round1", "median_strain_kt"].status == "half_failed"


def test_what_was_not_relaxed_and_what_has_no_bond_orders_has_no_rows() -> None:
    molecule, two = conformers("CCO", (1, 2))
    assert measured(ensemble("pretrain", molecule, two, strain=[0.0, 0.0])) == {}
    peptide = alanine_dipeptide()
    assert measured(ensemble("reference", peptide.molecule, peptide.positions_nm[[0, 0]], halves=True)) == {}
