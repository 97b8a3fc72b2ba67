"""`ancdiff score` as it is typed: bad input ends with a reason and a code, and a killed job loses nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ancdiff import cli
from ancdiff.artifacts import read_json, read_table, write_ensemble
from ancdiff.config import ForcefieldSettings
from ancdiff.errors import InputError, StageError
from ancdiff.forcefield.build import build_peptide
from ancdiff.forcefield.topology import select_atoms
from ancdiff.molecules import Ensemble, Molecule, signed_volumes

FORCEFIELD = ForcefieldSettings()


@dataclass(frozen=True, eq=False)
class Peptide:
    """Heavy atoms of a peptide."""

    molecule: Molecule
    positions_nm: np.ndarray

    def shaken(self, conformers: int) -> np.ndarray:
        noise = np.random.default_rng(5).normal(scale=0.003, size=(conformers, *self.positions_nm.shape))
        return (self.positions_nm + noise).astype(np.float32)

    def without(self, residue: int, *names: str) -> "Peptide":
        """Less the named atoms of a residue."""
        kept = np.array([not (r == residue and name in names) for name, r in zip(
            self.molecule.atom_names, self.molecule.residue_of_atom, strict=True)])  # fmt: skip
        return Peptide(select_atoms(self.molecule, np.flatnonzero(kept)), self.positions_nm[kept])

    def mirrored(self, residue: int) -> np.ndarray:
        """Positions with the residue's side chain reflected at the plane of N, CA and C: a D amino acid."""
        n, ca, c = (self.positions_nm[self.molecule.atom_index(residue, name)] for name in ("N", "CA", "C"))
        normal = np.cross(n - ca, c - ca)
        normal /= np.linalg.norm(normal)
        moved = self.positions_nm.copy()
        for i, name in enumerate(self.molecule.atom_names):
            if self.molecule.residue_of_atom[i] == residue and name not in ("N", "CA", "C", "O"):
                moved[i] -= 2 * np.dot(moved[i] - ca, normal) * normal
        return moved


def built(sequence: str) -> Peptide:
    peptide = build_peptide("made", sequence, FORCEFIELD)
    return Peptide(select_atoms(peptide.molecule, peptide.heavy), peptide.positions_nm[peptide.heavy])


@pytest.fixture(scope="module")
def peptide() -> Peptide:
    return built("ACE-ALA-SER-NME")


def write(folder: Path, peptide: Peptide, positions_nm: np.ndarray, *, topology: np.ndarray | None = None) -> Path:
    """A trajectory with the topology beside it; ``topology``: coordinates of that, else those of the peptide."""
    path = folder / "c.dcd"
    write_ensemble(path, Ensemble(peptide.molecule, np.asarray(positions_nm, dtype=np.float32)))
    own = peptide.positions_nm if topology is None else topology
    write_ensemble(folder / "own" / "c.dcd", Ensemble(peptide.molecule, own[None].astype(np.float32)))
    (folder / "own" / "topology.pdb").replace(folder / "topology.pdb")
    return path


def score(monkeypatch: pytest.MonkeyPatch, *files: tuple[Path, Path, Path]) -> int:
    """Exit code of the command for (topology, conformers, output) of one molecule or several."""
    words = ["score", "--threads", "1", "--relax", "none"]
    for topology, conformers, output in files:
        words += ["--topology", str(topology), "--conformers", str(conformers), "--output", str(output)]
    for variable in cli._THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(sys, "argv", ["ancdiff", *words])
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


# --------------------------------------------------------------------------------------- conformers that do not do


def test_bad_conformers_have_reasons_and_the_others_energies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, peptide: Peptide
) -> None:
    positions_nm = peptide.shaken(6)
    positions_nm[1, 3, 0] = np.nan
    positions_nm[2, 4, 2] = np.inf
    positions_nm[3, 5] = positions_nm[3, 1]  # two atoms at one place
    positions_nm[4] = peptide.mirrored(2)
    path, output = write(tmp_path, peptide, positions_nm), tmp_path / "energies.parquet"
    assert score(monkeypatch, (path.parent / "topology.pdb", path, output)) == 0
    table = read_table(output)
    assert table["status"].tolist() == ["ok", "nan_input", "nan_input", "clash", "broken_chirality", "ok"]
    assert np.isfinite(table["energy_kj_mol"]).tolist() == [True, False, False, False, False, True]
    said = capsys.readouterr().out
    for words in (
        "2 of 6 conformers scored",
        "2 failed: nan_input (a coordinate is NaN or infinite)",
        "1 failed: clash (two atoms of the input lie within 0.05 nm",
        "1 failed: broken_chirality (a stereocentre has the wrong hand (D instead of L), or a double bond",
        "wrong hand: CA of SER 3, in 1 conformers",
    ):
        assert words in said


def test_a_d_amino_acid_is_named_by_its_residue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, peptide: Peptide
) -> None:
    """In the topology's own structure, and so in every conformer: a table of failures, which says where."""
    mirrored = peptide.mirrored(1)
    centres = peptide.molecule.stereocentres
    assert (signed_volumes(mirrored[None], centres) > 0).tolist() == [[False, True]]
    path, output = write(tmp_path, peptide, np.array([mirrored] * 3), topology=mirrored), tmp_path / "energies.parquet"
    assert score(monkeypatch, (path.parent / "topology.pdb", path, output)) == 0
    assert (read_table(output)["status"] == "broken_chirality").all()
    assert read_json(tmp_path / "energies.json")["scored"]["wrong_hand"] == {"CA of ALA 2": 3}
    assert "wrong hand: CA of ALA 2, in 3 conformers" in capsys.readouterr().out


def test_a_missing_side_chain_atom_is_built_and_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, peptide: Peptide
) -> None:
    cut = peptide.without(2, "OG")
    path, output = write(tmp_path, cut, cut.shaken(2)), tmp_path / "energies.parquet"
    assert score(monkeypatch, (path.parent / "topology.pdb", path, output)) == 0
    assert (read_table(output)["status"] == "ok").all()
    assert read_json(tmp_path / "energies.json")["scored"]["added_atoms"] == {"SER 3": ["OG"]}


# --------------------------------------------------------------------------------------------- files that do not do


def no_backbone(folder: Path, peptide: Peptide) -> Path:
    cut = peptide.without(2, "CA")
    return write(folder, cut, cut.shaken(2))


def renamed_residue(folder: Path, peptide: Peptide, name: str) -> Path:
    path = write(folder, peptide, peptide.shaken(2))
    topology = folder / "topology.pdb"
    topology.write_text(topology.read_text().replace("SER", name))
    return path


def too_few_atoms(folder: Path, peptide: Peptide) -> Path:
    path = write(folder, peptide, peptide.shaken(2))
    cut = peptide.without(2, "OG")
    write_ensemble(path, Ensemble(cut.molecule, cut.shaken(2)))
    write(folder / "whole", peptide, peptide.shaken(1))
    (folder / "whole" / "topology.pdb").replace(folder / "topology.pdb")
    return path


def other_molecule(folder: Path, peptide: Peptide) -> Path:
    """Of as many heavy atoms."""
    other = built("ACE-SER-ALA-NME")
    return write(folder, peptide, other.shaken(2))


def shortened_dcd(folder: Path, peptide: Peptide) -> Path:
    path = write(folder, peptide, peptide.shaken(2))
    path.write_bytes(path.read_bytes()[:100])
    return path


def shortened_xtc(folder: Path, peptide: Peptide, length: int) -> Path:
    import mdtraj

    write(folder, peptide, peptide.shaken(2))
    path = folder / "c.xtc"
    frames = mdtraj.Trajectory(peptide.shaken(9), mdtraj.load_topology(str(folder / "topology.pdb")))
    frames.save_xtc(str(path))
    path.write_bytes(path.read_bytes()[:length])
    return path


BAD: dict[str, tuple[Callable[[Path, Peptide], Path], str]] = {
    "missing backbone atom": (no_backbone, "SER lacks CA, and without the backbone nothing can be built"),
    "unknown residue": (lambda f, p: renamed_residue(f, p, "QQQ"), "'QQQ' is not a residue that the force field knows"),
    "D residue by name": (
        lambda f, p: renamed_residue(f, p, "DSN"),
        "'DSN' is not a residue that the force field knows: it is a D amino acid, and only L is scored",
    ),
    "atom count": (too_few_atoms, "cannot be read with its topology"),
    "atom order": (
        lambda f, p: write(f, p, p.shaken(2)[:, ::-1]),
        "these conformers are of another molecule, or their atoms are in another order",
    ),
    "another molecule": (
        other_molecule,
        "these conformers are of another molecule, or their atoms are in another order",
    ),
    "Å given as nm": (lambda f, p: write(f, p, p.shaken(2) * 10), "wrong units: the median bond"),
    "all NaN": (lambda f, p: write(f, p, p.shaken(2) * np.nan), "no conformer has finite coordinates"),
    "empty trajectory": (lambda f, p: shortened_xtc(f, p, 0), "cannot be read"),
    "truncated DCD": (shortened_dcd, "cannot be read"),
    "truncated XTC": (lambda f, p: shortened_xtc(f, p, 300), "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_do_not_do_end_with_a_reason_and_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, peptide: Peptide, kind: str
) -> None:
    make, words = BAD[kind]
    path, output = make(tmp_path, peptide), tmp_path / "energies.parquet"
    assert score(monkeypatch, (path.parent / "topology.pdb", path, output)) == InputError.exit_code == 3
    said = capsys.readouterr().err
    assert said.startswith("ancdiff: ")
    assert words in said
    assert "  where: " in said
    assert "  do:    " in said
    assert not output.exists()


def test_several_molecules_in_one_job_and_one_of_them_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, peptide: Peptide
) -> None:
    other = built("ACE-GLY-NME")
    files = []
    for name, path in (
        ("one", write(tmp_path / "one", peptide, peptide.shaken(2))),
        ("bad", renamed_residue(tmp_path / "bad", peptide, "QQQ")),
        ("two", write(tmp_path / "two", other, other.shaken(3))),
    ):
        files.append((path.parent / "topology.pdb", path, tmp_path / f"{name}.parquet"))
    assert score(monkeypatch, *files) == StageError.exit_code == 4
    assert [len(read_table(tmp_path / f"{name}.parquet")) for name in ("one", "two")] == [2, 3]
    assert not (tmp_path / "bad.parquet").exists()
    shown = capsys.readouterr()
    assert "1 of 3 molecules could not be scored; the others were" in shown.err
    assert shown.out.count("conformers scored in") == 2
    # As if each had been alone.
    assert score(monkeypatch, (files[2][0], files[2][1], tmp_path / "alone.parquet")) == 0
    together, alone = (
        read_table(tmp_path / f"{name}.parquet").drop(columns="wall_seconds") for name in ("two", "alone")
    )
    pd.testing.assert_frame_equal(together, alone, check_exact=True)


# ---------------------------------------------------------------------------------------------------------- killed

ALL, KEPT = 250, 180

KILLED_AFTER_KEPT = f"""
import os, signal
from ancdiff import cli, score
from ancdiff.forcefield.energies import Scorer

score._KEEP_EVERY_SECONDS = -1.0  # every row at once: a second of work is not worth keeping otherwise
honest = Scorer.rows

def rows(self, conformers, positions_nm):
    for k, row in enumerate(honest(self, conformers, positions_nm)):
        if k == {KEPT}:
            os.kill(os.getpid(), signal.SIGKILL)
        yield row

Scorer.rows = rows
cli.main()
"""


def test_killed_after_180_of_250_conformers_the_next_try_scores_70(tmp_path: Path) -> None:
    peptide = built("ACE-ALA-NME")
    path = write(tmp_path, peptide, peptide.shaken(ALL))

    def command(output: Path) -> list[str]:
        files = ["--topology", str(tmp_path / "topology.pdb"), "--conformers", str(path), "--output", str(output)]
        return ["score", "--threads", "1", *files]

    def run(*start: str, output: Path) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
        words = [sys.executable, *start, *command(output)]
        return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment)

    output = tmp_path / "killed" / "energies.parquet"
    assert run("-c", KILLED_AFTER_KEPT, output=output).returncode == -signal.SIGKILL
    assert not output.exists()
    kept = pd.concat([read_table(part) for part in (output.parent / ".work").rglob("rows_*.parquet")])
    assert sorted(kept["conformer"]) == list(range(KEPT))

    again = run("-m", "ancdiff", output=output)
    assert again.returncode == 0, again.stderr
    assert f"{KEPT}/{ALL}" in again.stderr  # where the progress bar starts
    assert f"{ALL} of {ALL} conformers scored" in again.stdout
    table = read_table(output)
    # Times are never the same twice: the first 180 rows are those of the killed try, to the last digit.
    kept = kept.sort_values("conformer", ignore_index=True)[list(table.columns)]
    pd.testing.assert_frame_equal(table[:KEPT], kept, check_exact=True, check_dtype=False)
    assert table["conformer"].tolist() == list(range(ALL))
    assert not (output.parent / ".work").exists()

    whole = tmp_path / "whole" / "energies.parquet"
    assert run("-m", "ancdiff", output=whole).returncode == 0
    columns = [column for column in table.columns if column != "wall_seconds"]
    pd.testing.assert_frame_equal(table[columns], read_table(whole)[columns], check_exact=True)
