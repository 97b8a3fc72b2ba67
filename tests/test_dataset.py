"""The dataset stage on MD that `simulate` left: what it keeps, leaves out, splits and says."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ancdiff.artifacts import read_ensemble, read_json, write_ensemble, write_table
from ancdiff.config import StageConfig
from ancdiff.corridor import Layout
from ancdiff.dataset import run
from ancdiff.dataset.checks import check_frames
from ancdiff.dataset.frames import MdFrames
from ancdiff.dataset.split import independent_halves, validation_frames
from ancdiff.errors import InputError, StageError
from ancdiff.molecules import Ensemble, signed_volumes
from ancdiff.provenance import file_sha256
from ancdiff.testing import alanine_dipeptide

ALA = alanine_dipeptide()
CA = ALA.molecule.atom_index(1, "CA")
CB = ALA.molecule.atom_index(1, "CB")


def md(frames: int, seed: int = 0) -> np.ndarray:
    """Alanine dipeptide that shakes by 0.002 nm, each frame somewhere else."""
    rng = np.random.default_rng(seed)
    shake = rng.normal(scale=0.002, size=(frames, ALA.molecule.n_atoms, 3))
    return (ALA.positions_nm[:1] + shake + rng.normal(size=(frames, 1, 3))).astype(np.float32)


def simulated(results: Path, name: str, md_name: str, positions: np.ndarray, replicas: int) -> None:
    path = Layout(results).simulated(name, md_name)
    write_ensemble(path, Ensemble(ALA.molecule, positions), {"stage": "simulate"})
    frame = np.arange(len(positions))
    write_table(
        path.with_suffix(".parquet"),
        pd.DataFrame({"frame": frame, "replica": frame * replicas // len(frame), "time_ps": 0.5 * frame}),
    )


def settings_for(**systems: dict) -> StageConfig:
    default = {"ala": {"sequence": "ACE-ALA-NME"}}
    return StageConfig({"run": {}, "systems": systems or default, "dataset": {"validation_fraction": 0.2}})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    simulated(tmp_path, "ala", "training", md(40), replicas=4)
    simulated(tmp_path, "ala", "reference", md(20, seed=1), replicas=2)
    return tmp_path


def test_good_md_is_kept_whole_split_and_recorded(results: Path) -> None:
    run(settings_for(), results=results)
    table = pd.read_parquet(results / "dataset" / "split.parquet")
    assert list(table.columns) == ["system", "md", "frame", "replica", "half", "split"]
    training = table[table["md"] == "training"]
    # the last 2 of each replica's 10 frames validate; halves are whole replicas
    assert training["split"].tolist() == (["train"] * 8 + ["validation"] * 2) * 4
    assert training["half"].tolist() == [0] * 10 + [1] * 20 + [0] * 10
    reference = table[table["md"] == "reference"]
    assert reference["split"].unique().tolist() == ["reference"]
    assert reference["half"].tolist() == [0] * 10 + [1] * 10
    for name, n in (("training", 40), ("reference", 20)):
        path = Layout(results).ensemble(name, "ala")
        written, source = read_ensemble(path), read_ensemble(Layout(results).simulated("ala", name))
        centred = source.positions_nm - source.positions_nm.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(written.positions_nm, centred, atol=1e-6)
        record = read_json(path.with_suffix(".json"))
        assert record["stage"] == "dataset"
        assert record["parents"][f"simulate/ala/{name}.dcd"] == file_sha256(Layout(results).simulated("ala", name))
        assert table[table["md"] == name]["frame"].tolist() == list(range(n))
    checks = read_json(results / "dataset" / "checks.json")
    assert checks["frames"] == []
    counts = {"frames": 40, "kept": 40, "left_out": {}, "replicas": 4}
    assert checks["systems"]["ala"]["training"] == counts
    assert len((results / "dataset" / "split.tsv").read_text().splitlines()) == 61


def test_a_second_run_writes_the_same_bytes(results: Path) -> None:
    run(settings_for(), results=results)
    first = {path: path.read_bytes() for path in (results / "dataset").rglob("*") if path.is_file()}
    run(settings_for(), results=results)
    second = {path: path.read_bytes() for path in (results / "dataset").rglob("*") if path.is_file()}
    assert first == second


def test_a_test_system_trains_nothing(results: Path) -> None:
    simulated(results, "held", "training", md(10), replicas=1)
    simulated(results, "held", "reference", md(10), replicas=2)
    held = {"sequence": "ACE-ALA-NME", "split": "test"}
    run(settings_for(ala={"sequence": "ACE-ALA-NME"}, held=held), results=results)
    table = pd.read_parquet(results / "dataset" / "split.parquet").query("system == 'held' and md == 'training'")
    assert table["split"].unique().tolist() == ["test"]
    assert table["half"].tolist() == [0] * 5 + [1] * 5  # one replica: halves in time
    for systems in ({}, {"held": held}):
        only = StageConfig({"run": {}, "systems": systems, "dataset": {}})
        with pytest.raises(StageError, match="no system"):
            run(only, results=results)


def nan(x: np.ndarray) -> None:
    x[3, 1] = np.nan


def infinite(x: np.ndarray) -> None:
    x[0, 0] = np.inf


def angstrom(x: np.ndarray) -> None:
    x *= 10


def nanometres_taken_for_angstrom(x: np.ndarray) -> None:
    x /= 10


def torn(x: np.ndarray) -> None:
    x[CB] += 0.1 * (x[CB] - x[CA]) / np.linalg.norm(x[CB] - x[CA])


def mirrored(x: np.ndarray) -> None:
    x *= [1, 1, -1]


BAD = [
    (nan, "not finite: the coordinates of ALA2 N are"),
    (infinite, "not finite: the coordinates of ACE1"),
    (angstrom, "times as long as they should be; lengths in Å were taken for nm"),
    (nanometres_taken_for_angstrom, "lengths in nm were taken for Å"),
    (torn, "bond: ALA2 CA to ALA2 CB is 0.2"),
    (mirrored, "chirality: ALA2 CA is not of the natural (L) hand"),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD)
def test_a_bad_frame_becomes_a_row_with_its_reason(results: Path, spoil: Callable, reason: str) -> None:
    positions = md(40)
    spoil(positions[17])
    simulated(results, "ala", "training", positions, replicas=4)
    run(settings_for(), results=results)
    checks = read_json(results / "dataset" / "checks.json")
    [row] = checks["frames"]
    assert (row["system"], row["md"], row["replica"], row["frame"]) == ("ala", "training", 1, 17)
    assert reason in row["reason"]
    assert checks["systems"]["ala"]["training"]["left_out"] == {row["reason"].split(":")[0]: 1}
    kept = read_ensemble(Layout(results).ensemble("training", "ala"))
    expected = np.delete(md(40), 17, axis=0)
    np.testing.assert_allclose(kept.positions_nm, expected - expected.mean(axis=1, keepdims=True), atol=1e-6)
    table = pd.read_parquet(results / "dataset" / "split.parquet").query("md == 'training'")
    assert table["frame"].tolist() == list(range(39))
    assert (table["replica"] == 1).sum() == 9


@pytest.mark.parametrize(("spoil", "reason"), BAD)
def test_a_system_without_a_good_frame_stops_and_says_what_to_do(results: Path, spoil: Callable, reason: str) -> None:
    positions = md(5)
    for frame in positions:
        spoil(frame)
    simulated(results, "ala", "reference", positions, replicas=2)
    with pytest.raises(StageError) as caught:
        run(settings_for(), results=results)
    assert "system ala has no good frame in its reference MD" in caught.value.what
    assert reason in caught.value.what
    assert "reference.dcd" in caught.value.where
    assert caught.value.fix
    assert len(read_json(results / "dataset" / "checks.json")["frames"]) == 5
    assert not (results / "dataset" / "split.parquet").exists()


def test_every_system_with_a_problem_is_named(results: Path) -> None:
    simulated(results, "bad", "training", 10 * md(5), replicas=1)
    simulated(results, "bad", "reference", md(5), replicas=1)
    ala = {"sequence": "ACE-ALA-NME"}
    with pytest.raises(StageError) as caught:
        run(settings_for(ala=ala, bad=ala, gone=ala, wrong={"sequence": "ACE-VAL-NME"}), results=results)
    for said in ("3 systems", "system bad has no good frame", "simulate/gone/", "simulate/wrong/"):
        assert said in str(caught.value)


def test_md_of_another_molecule_or_with_a_table_that_does_not_fit(results: Path) -> None:
    with pytest.raises(InputError, match="ACE-GLY-NME in the configuration, but its MD is of ACE-ALA-NME"):
        run(settings_for(ala={"sequence": "ACE-GLY-NME"}), results=results)
    path = Layout(results).simulated("ala", "training").with_suffix(".parquet")
    table = pd.read_parquet(path)
    for broken, said in ((table[:-1], "39 frames"), (table.drop(columns="replica"), "lacks replica")):
        write_table(path, broken)
        with pytest.raises(InputError, match=said) as caught:
            run(settings_for(), results=results)
        assert "ancdiff simulate --system ala --md training" in caught.value.fix


def test_frames_in_any_order_are_put_in_order_of_time(results: Path) -> None:
    path = Layout(results).simulated("ala", "training")
    order = np.random.default_rng(5).permutation(40)  # file row i holds the frame that is order[i]-th in time
    write_ensemble(path, Ensemble(ALA.molecule, md(40)[order]))
    write_table(
        path.with_suffix(".parquet"),
        pd.DataFrame({"frame": range(40), "replica": order // 10, "time_ps": 0.5 * order}),
    )
    run(settings_for(), results=results)
    written = read_ensemble(Layout(results).ensemble("training", "ala")).positions_nm
    np.testing.assert_allclose(written, md(40) - md(40).mean(axis=1, keepdims=True), atol=1e-6)


def test_a_section_that_was_not_handed_is_not_read(results: Path) -> None:
    handed = settings_for()
    run(handed, results=results)
    assert set(handed.as_dict()) == {"run", "systems", "dataset"}
    assert json.loads((results / "dataset" / "split.json").read_text())["settings"] == handed.as_dict()


def frames_of(positions: np.ndarray, molecule=ALA.molecule) -> MdFrames:
    frame = np.arange(len(positions))
    return MdFrames(molecule, positions, np.zeros_like(frame), frame, ())


def test_stretch_is_measured_against_the_usual_length() -> None:
    positions = md(20).astype(np.float64)
    bond = positions[7, CB] - positions[7, CA]
    usual = np.median(np.linalg.norm(positions[:, CB] - positions[:, CA], axis=-1))
    for factor, broken in ((1.29, False), (1.31, True), (0.71, False), (0.69, True)):
        positions[7, CB] = positions[7, CA] + bond * factor * usual / np.linalg.norm(bond)
        reasons = check_frames(frames_of(positions), max_bond_stretch=0.3)
        assert [f for f, reason in enumerate(reasons) if reason] == ([7] if broken else [])


def test_atoms_in_another_order_are_broken_bonds_in_every_frame() -> None:
    reasons = check_frames(frames_of(md(6)[:, ::-1]), max_bond_stretch=0.3)
    assert all(reason is not None and reason.startswith("bond: ") for reason in reasons)


def test_a_molecule_without_bonds_or_stereocentres_passes() -> None:
    none = np.zeros((0, 2), dtype=np.int64)
    bare = replace(ALA.molecule, bonds=none, stereocentres=np.zeros((0, 4), dtype=np.int64))
    assert check_frames(frames_of(md(3), bare), max_bond_stretch=0.3) == [None] * 3


def test_the_hand_of_the_test_molecule_is_the_natural_one() -> None:
    assert np.all(signed_volumes(md(5), ALA.molecule.stereocentres) > 0)


replica_lists = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(
    lambda sizes: np.repeat(np.arange(len(sizes)), sizes)
)


@settings(deadline=None, max_examples=60)
@given(replica_lists, st.floats(0.01, 0.49))
def test_validation_is_the_end_of_each_replica(replica: np.ndarray, fraction: float) -> None:
    validation = validation_frames(replica, fraction)
    counts = []
    for r in np.unique(replica):
        inside = validation[replica == r]
        assert np.all(np.diff(inside.astype(int)) >= 0)  # once it begins it lasts
        assert not inside[0] or len(inside) == 1
        counts.append(inside.sum())
        assert abs(counts[-1] - fraction * len(inside)) <= 1
    assert validation.any() == (len(replica) > 1)


def test_replicas_too_short_for_validation_give_the_last_frame_of_all() -> None:
    assert validation_frames(np.array([0, 0, 1, 1]), 0.1).tolist() == [False, False, False, True]
    assert validation_frames(np.array([0]), 0.4).tolist() == [False]


@settings(deadline=None, max_examples=60)
@given(replica_lists)
def test_halves_are_of_whole_replicas_and_even(replica: np.ndarray) -> None:
    half = independent_halves(replica)
    n_replicas = replica[-1] + 1
    if n_replicas == 1:
        assert np.all(np.diff(half) >= 0)
        assert abs(int((half == 0).sum()) - int((half == 1).sum())) <= 1
        return
    per_replica = [np.unique(half[replica == r]) for r in range(n_replicas)]
    assert all(len(values) == 1 for values in per_replica)
    first = sum(int(values[0]) == 0 for values in per_replica)
    assert abs(2 * first - n_replicas) <= 1


@pytest.mark.parametrize("starts", [[0] * 8 + [1] * 8, [0, 1] * 8, [0, 0, 1, 1] * 4])
def test_halves_are_even_in_starting_structures_listed_in_blocks_or_in_turns(starts: list[int]) -> None:
    half = independent_halves(np.arange(16))
    assert [sum(s for s, h in zip(starts, half, strict=True) if h == which) for which in (0, 1)] == [4, 4]
