"""Conformers of small molecules: where they come from, what the network is told, and a tiny run to its report."""

import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from in_process import run_everything
from made_molecules import embedded
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from ancdiff import simulate
from ancdiff.artifacts import read_ensemble, read_json, read_molecule, read_table, write_ensemble
from ancdiff.chemistry import best_rmsd_nm, graph_of_molecule, graph_of_smiles, plain_smiles
from ancdiff.config import (
    ConformerSettings,
    EmbeddingSettings,
    ForcefieldSettings,
    ScoreSettings,
    StageConfig,
    SystemSettings,
    parse_config,
)
from ancdiff.corridor import Layout
from ancdiff.dataset.checks import check_frames
from ancdiff.dataset.conformers import check_conformers, read_graph
from ancdiff.dataset.frames import MdFrames
from ancdiff.dataset.trajectories import read_trajectories
from ancdiff.denoiser.store import load_denoiser
from ancdiff.errors import AncdiffError, ConfigError, InputError, StageError
from ancdiff.forcefield.conformers import make_conformers, settled
from ancdiff.forcefield.energies import Scorer
from ancdiff.molecules import Ensemble, Molecule, has_right_hands
from ancdiff.preflight import check_systems
from ancdiff.workflow import Corridor

HERE = Path(__file__).parent
MMFF94 = ForcefieldSettings(small_molecule="mmff94", platform="Reference")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Two molecules to learn from and one held out, aligned for one round."""
    root = tmp_path_factory.mktemp("conformers")
    run_everything(HERE / "tiny-conformers.yaml", root)
    return Layout(root)


# ------------------------------------------------------------------------------------ a run, all of it


def test_the_chemistry_goes_through_the_whole_workflow(run: Layout) -> None:
    first = read_molecule(run.simulated("halide", "training").with_name("topology.pdb"), name="halide")
    assert plain_smiles(graph_of_molecule(first)) == "CC(F)Cl"
    assert len(first.stereocentres) == 1
    for path in (
        run.topology("halide"),
        run.ensemble("pretrain", "halide").with_name("topology.pdb"),
        run.ensemble("eba_round1", "halide").with_name("topology.pdb"),
    ):
        other = read_molecule(path, name="halide")
        assert (other.bond_orders, other.formal_charges) == (first.bond_orders, first.formal_charges)
        np.testing.assert_array_equal(other.stereocentres, first.stereocentres)
        np.testing.assert_array_equal(other.bonds, first.bonds)
    for md in ("training", "reference"):
        assert has_right_hands(first, read_ensemble(run.ensemble(md, "halide")).positions_nm).all()


def test_the_model_is_told_the_chemistry_and_learns_from_the_training_molecules_alone(run: Layout) -> None:
    assert read_json(run.model("pretrain").with_suffix(".json"))["chemistry"] is True
    assert load_denoiser(run.model("eba_round1"))[0].chemistry
    weights = read_table(run.model("eba_round1").parent / "weights.parquet")
    assert set(weights["system"]) == {"ethanol", "halide"}
    split = read_table(run.root / "dataset" / "split.parquet")
    assert set(split[split["system"] == "ether"]["split"]) == {"test", "reference"}


def test_every_ensemble_is_measured_also_of_the_molecule_held_out(run: Layout) -> None:
    metrics = read_table(run.root / "evaluate" / "metrics.parquet")
    ether = metrics[metrics["system"] == "ether"].set_index(["ensemble", "metric", "against"])
    for ensemble in ("training", "reference", "pretrain", "eba_round1"):
        for metric in ("cov_r", "mat_r_nm", "cov_p", "mat_p_nm"):
            assert np.isfinite(
                ether.loc[(ensemble, metric, "reference"), ["value", "floor"]].to_numpy(dtype=float)
            ).all()
    # COC has one conformer: whatever is found of it is that, and the two halves of the reference are alike.
    assert ether.loc[("training", "cov_r", "reference"), "value"] == 1.0
    assert ether.loc[("reference", "mat_r_nm", "reference"), "floor"] < 1e-4
    assert ether.loc[("training", "median_strain_kt", ""), "value"] == pytest.approx(0.0, abs=0.01)
    assert ether.loc[("pretrain", "median_strain_kt", ""), "value"] > 1.0
    summary = read_table(run.root / "evaluate" / "summary.parquet")
    assert {"cov_r", "cov_r_low", "cov_r_floor", "median_strain_kt"} <= set(summary.columns)


def test_the_page_speaks_of_molecules(run: Layout) -> None:
    page = (run.root / "report.html").read_text(encoding="utf-8")
    for words in ("COV-R", "MAT-P", "Strain", "MMFF94", "Molecules never seen in training", "GeoDiff"):
        assert words in page
    for words in ("scored with ff14SB", "Force field ff14SB", "Map divergence", "There is no reference MD"):
        assert words not in page


def test_scores_have_the_energy_as_it_is_and_the_strain(run: Layout) -> None:
    table = read_table(run.energies("pretrain", "ether"))
    good = table[table["status"] == "ok"]
    assert len(good)
    np.testing.assert_array_equal(good["energy_kj_mol"], good["energy_placed_kj_mol"])
    assert (good["strain_kj_mol"] > 0).all()
    minima = read_table(run.energies("reference", "ether"))
    # All are the one minimum: what is left of a sample without its strain is its energy.
    np.testing.assert_allclose(
        good["energy_kj_mol"] - good["strain_kj_mol"], minima["energy_kj_mol"].iloc[0], atol=0.05
    )


# ----------------------------------------------------------------------------------- making conformers


def made(smiles: str, **settings: float) -> tuple[Molecule, object]:
    molecule, example_nm = settled(graph_of_smiles(smiles), "x", seed=11)
    return molecule, make_conformers(molecule, example_nm, MMFF94, EmbeddingSettings(**settings), seed=5)


def test_butane_has_three_conformers_of_the_known_energies() -> None:
    molecule, found = made("CCCC", embeddings=20)
    assert len(found.positions_nm) == 3
    anti, *gauche = found.energies_kj_mol
    # MMFF94: gauche lies 0.78 kcal/mol above anti, and its mirror image as high (Halgren 1996, part IV).
    np.testing.assert_allclose(np.array(gauche) - anti, 0.78 * 4.184, atol=0.1)
    assert found.counts == {"tried": 20, "copies": 17, "kept": 3}
    graph = graph_of_molecule(molecule, *found.positions_nm)
    assert best_rmsd_nm(graph, graph)[1, 2] > 0.01


def test_window_and_threshold_leave_out_what_they_say() -> None:
    _, low = made("CCCC", embeddings=20, window_kj_mol=1.0)
    assert (len(low.positions_nm), low.counts["kept"]) == (1, 1)
    assert low.counts["above the window"] > 0
    _, far = made("CCCC", embeddings=20, rmsd_nm=0.2)
    assert len(far.positions_nm) == 1


def test_polar_hydrogens_tell_conformers_apart_and_those_of_methyls_do_not() -> None:
    assert len(made("CCO", embeddings=20)[1].positions_nm) == 3  # anti, and two gauche ones
    assert len(made("CC", embeddings=4)[1].positions_nm) == 1


def test_the_same_seed_makes_the_same_conformers() -> None:
    one, two = made("CCOC", embeddings=6)[1], made("CCOC", embeddings=6)[1]
    np.testing.assert_array_equal(one.positions_nm, two.positions_nm)


def test_hands_that_a_smiles_leaves_open_are_set_once() -> None:
    molecule, found = made("CC(O)C=CC", embeddings=10)
    assert len(molecule.stereocentres) == 1
    assert len(molecule.cis) == 2
    assert has_right_hands(molecule, found.positions_nm).all()
    mirrored = found.positions_nm * np.array([-1.0, 1.0, 1.0])
    assert not has_right_hands(molecule, mirrored).any()


def test_a_molecule_of_an_sdf_file_keeps_its_hands(tmp_path: Path) -> None:
    graph = graph_of_smiles("C[C@H](F)Cl")
    for seed in (1, 2):
        rdDistGeom.EmbedMolecule(graph, randomSeed=3)
        with Chem.SDWriter(str(tmp_path / "m.sdf")) as writer:
            writer.write(graph)
        molecule, example_nm = settled(
            read_graph(ConformerSettings(file=str(tmp_path / "m.sdf")), where="x"), "x", seed=seed
        )
        back = graph_of_molecule(molecule, example_nm)
        Chem.AssignStereochemistryFrom3D(back)
        assert Chem.MolToSmiles(Chem.RemoveHs(back)) == Chem.MolToSmiles(Chem.MolFromSmiles("C[C@H](F)Cl"))


# --------------------------------------------------------------------------- where molecules come from


@pytest.mark.parametrize(
    ("smiles", "said"),
    [
        ("CC(", "not a SMILES"),
        ("", "not a SMILES"),
        ("C(C)(C)(C)(C)C", "chemically impossible"),
        ("c1cccc1", "chemically impossible"),
        ("CC.O", "2 molecules"),
    ],
)
def test_a_bad_smiles_is_told_with_its_system(smiles: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        simulated({"conformers": {"smiles": smiles}}, tmp_path)
    assert "systems.mine" in caught.value.where


def simulated(system: dict, results: Path, **forcefield: str) -> None:
    sections = {"systems": {"mine": system}, "forcefield": {"small_molecule": "mmff94"} | forcefield, "simulate": {}}
    simulate.run(StageConfig(sections), system="mine", md="training", results=results)


def test_a_molecule_that_cannot_be_or_has_no_parameters_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be embedded") as caught:  # rings joined from the wrong sides
        simulated({"conformers": {"smiles": "[C@H]12C[C@@H]1C2"}}, tmp_path)
    assert caught.value.where == "mine"
    with pytest.raises(InputError, match="MMFF94 has no parameters for B") as caught:
        simulated({"conformers": {"smiles": "CB(O)O"}}, tmp_path)
    assert "gfn2-xtb" in caught.value.fix
    with pytest.raises(InputError, match="unpaired electrons"):
        simulated({"conformers": {"smiles": "C[CH]C"}}, tmp_path)
    assert not any(tmp_path.rglob("*.dcd"))


def test_molecules_out_of_files(tmp_path: Path) -> None:
    sdf = tmp_path / "two.sdf"
    with Chem.SDWriter(str(sdf)) as writer:
        for smiles in ("CCO", "CCN"):
            graph = graph_of_smiles(smiles)
            rdDistGeom.EmbedMolecule(graph, randomSeed=1)
            writer.write(graph)
    assert plain_smiles(read_graph(ConformerSettings(file=str(sdf), record=2), where="x")) == "CCN"
    with pytest.raises(InputError, match="no record 3: this file has 2"):
        read_graph(ConformerSettings(file=str(sdf), record=3), where="x")
    with pytest.raises(InputError, match="no such file"):
        read_graph(ConformerSettings(file=str(tmp_path / "none.sdf")), where="systems.mine")
    graph = graph_of_smiles("CC=O")
    rdDistGeom.EmbedMolecule(graph, randomSeed=1)
    (tmp_path / "dsgdb9nsd_000007.xyz").write_text(Chem.MolToXYZBlock(graph))
    (tmp_path / "dsgdb9nsd_000008.xyz").write_text("2\n\nH 0 0 0\nH 0 0 3\n")
    archive = tmp_path / "qm9.tar.bz2"
    with tarfile.open(archive, "w:bz2") as tar:
        for number in (7, 8):
            tar.add(tmp_path / f"dsgdb9nsd_00000{number}.xyz", arcname=f"dsgdb9nsd_00000{number}.xyz")
    assert plain_smiles(read_graph(ConformerSettings(file=str(archive), record=7), where="x")) == "CC=O"
    with pytest.raises(InputError, match="no sound compound 3"):
        read_graph(ConformerSettings(file=str(archive), record=3), where="x")
    with pytest.raises(AncdiffError):  # two atoms that no bond holds together
        settled(read_graph(ConformerSettings(file=str(archive), record=8), where="x"), "x", seed=1)


def test_conformers_of_another_molecule_than_the_configuration_says() -> None:
    molecule, positions_nm = embedded("CCO")
    none = np.zeros(1, dtype=np.int64)
    frames = MdFrames(molecule, positions_nm, none, none, (Path("topology.pdb"), Path("training.dcd")))
    assert check_conformers(frames, ConformerSettings(smiles="OCC")) is frames
    with pytest.raises(InputError, match="CCN in the configuration, but its conformers are of CCO"):
        check_conformers(frames, ConformerSettings(smiles="CCN"))


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ({"conformers": {}}, "either 'smiles' or 'file'"),
        ({"conformers": {"smiles": "C", "file": "x.sdf"}}, "either 'smiles' or 'file'"),
        ({"conformers": {"smiles": "C", "record": 2}}, "'record' goes with 'file'"),
        ({"conformers": {"smiles": "C"}, "sequence": "ACE-ALA-NME"}, "one of the five, not sequence, conformers"),
        ({"conformers": {"smyles": "C"}}, "did you mean 'smiles'?"),
    ],
)
def test_what_a_configuration_of_conformers_may_not_be(system: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"systems": {"x": system}})
    assert said in str(caught.value)


def test_what_the_workflow_asks(tmp_path: Path) -> None:
    sdf = tmp_path / "m.sdf"
    raw = {"systems": {"a": {"conformers": {"smiles": "CCO"}}, "b": {"conformers": {"file": str(sdf)}}}}
    with pytest.raises(ConfigError, match="a, b: no energy for small molecules is chosen"):
        check_systems(parse_config(raw))
    raw["forcefield"] = {"small_molecule": "mmff94"}
    with pytest.raises(InputError, match="no such file"):
        check_systems(parse_config(raw))
    sdf.write_text("")
    check_systems(parse_config(raw))
    corridor = Corridor(parse_config(raw))
    assert corridor.simulate_inputs(SimpleNamespace(system="a", md="training")) == []
    assert corridor.simulate_inputs(SimpleNamespace(system="b", md="training")) == [sdf]
    inputs = corridor.dataset_inputs(SimpleNamespace())
    assert inputs["own"] == []
    assert len(inputs["simulated"]) == 4


# ------------------------------------------------------------------------------ own conformers, checks


def test_an_sdf_topology_with_own_conformers_goes_into_the_dataset(tmp_path: Path) -> None:
    graph = graph_of_smiles("C[C@H](F)C(=O)[O-]")
    rdDistGeom.EmbedMultipleConfs(graph, 5, randomSeed=2)
    topology, xyz = tmp_path / "m.sdf", tmp_path / "c.xyz"
    with Chem.SDWriter(str(topology)) as writer:
        writer.write(graph, confId=0)
    blocks = [Chem.MolToXYZBlock(graph, confId=c.GetId(), precision=8) for c in graph.GetConformers()]
    xyz.write_text("".join([*blocks[:3], "1\n\nC 0 0 0\n", *blocks[3:]]))
    sets = read_trajectories("mine", SystemSettings(topology=str(topology), training=(str(xyz),)))
    frames = sets["training"]
    assert list(sets) == ["training"]
    assert len(frames) == 6
    assert frames.molecule.formal_charges is not None
    assert sum(frames.molecule.formal_charges) == -1
    assert "record 3 of c.xyz" in frames.notes[0]
    reasons = check_frames(frames, max_bond_stretch=0.3)
    assert [k for k, reason in enumerate(reasons) if reason is not None] == [3]
    write_ensemble(tmp_path / "out" / "c.dcd", Ensemble(frames.molecule, frames.positions_nm[:3].astype(np.float32)))
    again = read_ensemble(tmp_path / "out" / "c.dcd", name="mine").molecule
    assert again.formal_charges == frames.molecule.formal_charges


def test_frames_of_the_wrong_hand_or_side_are_left_out() -> None:
    for smiles, said in (("C[C@H](F)Cl", "the hand of its topology"), ("C/C=C\\C", "sides of a double bond")):
        molecule, positions_nm = embedded(smiles)
        if smiles.startswith("C/"):  # turn one end about the double bond
            _, other = embedded("C/C=C/C")
            wrong = other[0]
        else:
            wrong = positions_nm[0] * np.array([-1.0, 1.0, 1.0])
        frames = MdFrames(
            molecule, np.array([positions_nm[0], wrong]), np.zeros(2, dtype=int), np.arange(2), (Path("a"), Path("b"))
        )
        good, bad = check_frames(frames, max_bond_stretch=0.5)
        assert good is None
        assert bad is not None
        assert said in bad


def test_the_strain_is_what_a_full_relaxation_loses() -> None:
    molecule, positions_nm = embedded("CCOC", 3)
    score = ScoreSettings(relax="none", strain=True)
    rows = list(Scorer(molecule, positions_nm[0], MMFF94, score).rows(np.arange(3), positions_nm))
    full = list(Scorer(molecule, positions_nm[0], MMFF94, ScoreSettings(relax="full")).rows(np.arange(3), positions_nm))
    for row, relaxed in zip(rows, full, strict=True):
        assert row["strain_kj_mol"] == pytest.approx(relaxed["strain_kj_mol"], abs=1e-6)
        assert row["energy_kj_mol"] == row["energy_placed_kj_mol"] == pytest.approx(relaxed["energy_placed_kj_mol"])
        assert row["strain_kj_mol"] > 1.0
