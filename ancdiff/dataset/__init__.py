"""The dataset stage: read, check and split the MD that models learn from and are compared with.

Frames that are not sound structures are left out and become rows of ``dataset/checks.json`` with their reason.
Positions are centred (mean of the heavy atoms at the origin); nothing else about them is changed.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ancdiff.artifacts import write_ensemble, write_json, write_table
from ancdiff.chemistry import RESIDUE as LIGAND
from ancdiff.config import StageConfig, SystemSettings
from ancdiff.corridor import MD_ENSEMBLES, Layout
from ancdiff.dataset import compounds
from ancdiff.dataset.checks import check_frames
from ancdiff.dataset.conformers import check_conformers
from ancdiff.dataset.frames import MdFrames
from ancdiff.dataset.peptides import read_simulated
from ancdiff.dataset.points import check_particles
from ancdiff.dataset.split import independent_halves, validation_frames
from ancdiff.dataset.trajectories import read_trajectories
from ancdiff.errors import AncdiffError, StageError
from ancdiff.molecules import Ensemble
from ancdiff.origins import is_simulated
from ancdiff.particles import RESIDUE as PARTICLE
from ancdiff.provenance import made_by

SPLIT_COLUMNS = ("system", "md", "frame", "replica", "half", "split")

_FIX = "mend the files, or take the system out of the 'systems' section; dataset/checks.json lists every frame"
_FIXES = {
    "units": "convert the trajectory to the unit of its format (GRO, XTC, TRR: nm; PDB, DCD, NetCDF: Å)",
    "bond": "check that topology and trajectory are of the same molecule, atoms in the same order",
    "chirality": "D-amino acids are not supported: take the system out of the 'systems' section, or mend its structure",
}


@dataclass(frozen=True, eq=False)
class _Checked:
    """One MD data set after its check: the good frames, and for a person what happened to the others."""

    system: str
    md: str
    source: MdFrames
    good: np.ndarray
    reasons: list[str | None]


def run(settings: StageConfig, *, results: Path) -> None:
    """Write each system's checked MD, ``dataset/split.parquet`` (and .tsv) and ``dataset/checks.json``.

    Deterministic; draws no random numbers. Reads sections run, systems, dataset.

    Raises:
        StageError: there is no system to train on, or a system has no good frame left.
        InputError: a source is missing, unreadable, or not the molecule that it should be.
    """
    systems: dict[str, SystemSettings] = settings.systems
    if any(system.compounds for system in systems.values()):
        compounds.run(settings, results=results)
        return
    if all(system.split == "test" for system in systems.values()):
        raise StageError(
            "there is no system to train on" if systems else "the run has no systems",
            where="section 'systems' of the configuration",
            fix="add a system, e.g.  systems: {ala: {sequence: ACE-ALA-NME}},  with split: train (the default)",
        )
    checked: list[_Checked] = []
    problems: list[AncdiffError] = []
    for name, system in systems.items():
        try:
            sets = _read(results, name, system)
            found = [_check(name, md, frames, settings.dataset.max_bond_stretch) for md, frames in sets.items()]
        except AncdiffError as problem:
            problems.append(problem)
        else:
            checked += found
            problems += _without_good_frames(found)
    # Written first: where the stage stops, the reasons are there to read.
    write_json(results / "dataset" / "checks.json", _checks_record(settings, checked))
    _stop_for(problems)
    for one in checked:
        _write_ensemble(settings, results, one)
    rows = [_split_rows(one, systems[one.system], settings.dataset.validation_fraction) for one in checked]
    table = pd.concat(rows, ignore_index=True)
    split_path = results / "dataset" / "split.parquet"
    write_json(split_path.with_suffix(".json"), _record(settings, checked))
    write_table(split_path, table, tsv=True)


def _read(results: Path, name: str, system: SystemSettings) -> dict[str, MdFrames]:
    if not is_simulated(system):
        return read_trajectories(name, system)
    residues = system.sequence.split("-") if system.sequence else [LIGAND if system.conformers else PARTICLE]
    sets = {md: read_simulated(results, name, md, residues=residues) for md in MD_ENSEMBLES}
    if system.conformers is not None:
        return {md: check_conformers(frames, system.conformers) for md, frames in sets.items()}
    return sets if system.sequence is not None else {md: check_particles(f, system) for md, f in sets.items()}


def _check(name: str, md: str, frames: MdFrames, max_bond_stretch: float) -> _Checked:
    reasons = check_frames(frames, max_bond_stretch=max_bond_stretch)
    good = np.array([f for f, reason in enumerate(reasons) if reason is None], dtype=np.int64)
    return _Checked(name, md, frames, good, reasons)


def _without_good_frames(found: list[_Checked]) -> list[AncdiffError]:
    return [
        StageError(
            f"system {one.system} has no good frame in its {one.md} MD ({_tally(one)}); the first: {one.reasons[0]}",
            where=", ".join(str(path) for path in one.source.files),
            fix=_FIXES.get(one.reasons[0].split(":")[0], _FIX) if one.reasons[0] else _FIX,
        )
        for one in found
        if len(one.good) == 0
    ]


def _stop_for(problems: list[AncdiffError]) -> None:
    """Raise the one problem as it is, several as one error that names them all."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise StageError(
            f"{len(problems)} systems cannot be used:\n" + "\n".join(f"  - {problem}" for problem in problems),
            where="section 'systems' of the configuration",
            fix="mend each as its own lines say",
        )


def _write_ensemble(settings: StageConfig, results: Path, one: _Checked) -> None:
    positions = one.source.positions_nm[one.good].astype(np.float64)
    positions -= positions.mean(axis=1, keepdims=True)
    ensemble = Ensemble(one.source.molecule, positions.astype(np.float32))
    record = _record(settings, [one]) | {"system": one.system, "md": one.md, "notes": list(one.source.notes)}
    write_ensemble(Layout(results).ensemble(one.md, one.system), ensemble, record)


def _split_rows(one: _Checked, system: SystemSettings, validation_fraction: float) -> pd.DataFrame:
    replica = one.source.replica[one.good]
    if one.md == "reference":
        split = np.full(len(replica), "reference")
    elif system.split == "test":
        split = np.full(len(replica), "test")
    else:
        split = np.where(validation_frames(replica, validation_fraction), "validation", "train")
    return pd.DataFrame(
        {
            "system": one.system,
            "md": one.md,
            "frame": np.arange(len(replica), dtype=np.int64),
            "replica": replica.astype(np.int64),
            "half": independent_halves(replica),
            "split": split,
        }
    )[list(SPLIT_COLUMNS)]


def _checks_record(settings: StageConfig, checked: list[_Checked]) -> dict[str, Any]:
    """Every frame left out (``frame`` counts in its source file), and counts for each system."""
    frames = [
        {
            "system": one.system,
            "md": one.md,
            "replica": int(one.source.replica[f]),
            "frame": int(one.source.frame[f]),
            "reason": reason,
        }
        for one in checked
        for f, reason in enumerate(one.reasons)
        if reason is not None
    ]
    systems: dict[str, dict[str, Any]] = {}
    for one in checked:
        systems.setdefault(one.system, {"atoms": one.source.molecule.n_atoms, "notes": list(one.source.notes)})[
            one.md
        ] = {
            "frames": len(one.source),
            "kept": len(one.good),
            "left_out": dict(_reason_counts(one)),
            "replicas": len(np.unique(one.source.replica)),
        }
    return {"frames": frames, "systems": systems, "made_by": _record(settings, checked)}


def _reason_counts(one: _Checked) -> Counter[str]:
    return Counter(reason.split(":")[0] for reason in one.reasons if reason is not None)


def _tally(one: _Checked) -> str:
    return ", ".join(f"{reason}: {n} of {len(one.source)} frames" for reason, n in sorted(_reason_counts(one).items()))


def _record(settings: StageConfig, checked: list[_Checked]) -> dict[str, Any]:
    parents = dict.fromkeys(path for one in checked for path in one.source.files)
    return made_by("dataset", settings=settings.as_dict(), seed=None, parents=parents)
