"""Force-field or exact energies of an ensemble: one row for each conformer, resumable.

Rows are kept in small files under ``.work/<key>`` beside the output while the stage runs, keyed by settings, code and
inputs; a stage that was killed scores only what is missing.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from tqdm import tqdm

from ancdiff.artifacts import read_ensemble, read_structure, read_table, write_json, write_table
from ancdiff.config import StageConfig
from ancdiff.errors import InputError
from ancdiff.forcefield.energies import FAILURES, Scorer, open_scorer
from ancdiff.forcefield.exact import ExactScorer
from ancdiff.molecules import Ensemble, check_energy_table, evenly_spaced
from ancdiff.particles import RESIDUE
from ancdiff.provenance import made_by
from ancdiff.units import thermal_energy_kj_mol

_KEEP_EVERY_SECONDS = 5.0
_CUTOFF_CONFORMERS = 8


def run(
    settings: StageConfig, *, topology: Path, conformers: Path, output: Path, max_conformers: int | None, threads: int
) -> None:
    """Write the energy table of a trajectory, and a record of what made it beside it (``.json``).

    Of more than ``max_conformers`` evenly spaced ones are taken; column ``conformer`` is the place in the trajectory.

    Raises:
        InputError: a file is missing or does not fit the other, the units are wrong, a residue is not known.
    """
    ensemble = read_ensemble(conformers, topology=topology)
    chosen = evenly_spaced(len(ensemble), max_conformers)
    record = made_by("score", settings=settings.as_dict(), seed=None, parents=[topology, conformers])
    key = hashlib.sha256(json.dumps([record, chosen.tolist()], sort_keys=True).encode()).hexdigest()[:16]
    work = output.parent / ".work" / f"{output.stem}_{key}"
    scorer, how = _scorer(settings, ensemble, topology, threads)
    table = check_energy_table(_resumed(scorer, ensemble, chosen, work), where=str(output))
    numbered = zip(table["conformer"], table["status"], strict=True)
    table["status"] = [ensemble.refused.get(int(number), status) for number, status in numbered]
    record["scored"] = {
        **how,
        "conformers": len(table),
        "failures": {str(k): int(v) for k, v in table["status"][table["status"] != "ok"].value_counts().items()},
    }
    mirrored = table["conformer"][table["status"] == "broken_chirality"].to_numpy(dtype=np.int64)
    if len(mirrored) and isinstance(scorer, Scorer):
        record["scored"]["wrong_hand"] = scorer.wrong_hands(ensemble.positions_nm[mirrored])
    if settings.forcefield.cutoff_nm is not None and isinstance(scorer, Scorer):
        record["scored"]["cutoff_error"] = _cutoff_error(scorer, ensemble, table)
    write_json(output.with_suffix(".json"), record)
    write_table(output, table)
    _remove(work)


def _cutoff_error(scorer: Scorer, ensemble: Ensemble, table: pd.DataFrame) -> dict[str, float | int] | None:
    """What the cutoff does to energies, kJ/mol: only the part that differs between conformers moves weights."""
    good = table["conformer"][table["status"] == "ok"].to_numpy(dtype=np.int64)
    if len(good) == 0:
        return None
    some = good[evenly_spaced(len(good), _CUTOFF_CONFORMERS)]
    errors = scorer.cutoff_errors_kj_mol(ensemble.positions_nm[some])
    return {
        "conformers": len(some),
        "first_kj_mol": float(errors[0]),
        "mean_kj_mol": float(errors.mean()),
        "spread_kj_mol": float(errors.std()),
    }


def _scorer(
    settings: StageConfig, ensemble: Ensemble, topology: Path, threads: int
) -> tuple[Scorer | ExactScorer, dict[str, Any]]:
    """What gives the energies, and its part of the record.

    A system with an exact energy is known by its name, that of the folder that the topology lies in.

    Raises:
        InputError: particles whose potential is not among the settings, or fewer or more than it has.
    """
    molecule = ensemble.molecule
    system = settings.systems.get(molecule.name)
    if system is not None and system.exact is not None:
        exact = ExactScorer(molecule, system.exact)
        return exact, {"platform": exact.platform, "potential": system.exact.potential, **exact.potential.parameters}
    if molecule.residue_names == (RESIDUE,):
        raise InputError(
            "these particles have no energy: no 'exact' potential is given for their system",
            where=f"system '{molecule.name}'",
            fix=f"take dataset/<system>/topology.pdb, and a --config with  systems: {{{molecule.name}: {{exact: …}}}}",
        )
    structure_nm = read_structure(topology)
    scorer = open_scorer(ensemble, settings.forcefield, settings.score, structure_nm=structure_nm, threads=threads)
    return scorer, {"platform": scorer.relaxer.platform, **scorer.template.record}


def summary(table: pd.DataFrame, record: Mapping[str, Any], temperature_kelvin: float = 300.0) -> str:
    """A few lines for a person to read about an energy table and the ``scored`` part of its record."""
    good = table[table["status"] == "ok"]
    seconds = float(table["wall_seconds"].sum())
    lines = [f"{len(good)} of {len(table)} conformers scored in {seconds:.1f} s"]
    for status, count in table["status"][table["status"] != "ok"].value_counts().items():
        lines.append(f"  {count} failed: {status} ({FAILURES.get(str(status), 'unknown reason')})")
    for centre, count in record.get("wrong_hand", {}).items():
        lines.append(f"  wrong hand: {centre}, in {count} conformers")
    if len(good):
        lines.append(f"{'kJ/mol':12s}{'lowest':>12s}{'median':>12s}{'highest':>12s}")
        for column in good.columns:
            if str(column).endswith("_kj_mol") and good[column].notna().any():
                low, median, high = np.quantile(good[column], [0.0, 0.5, 1.0])
                lines.append(f"{str(column).removesuffix('_kj_mol'):14s}{low:10.1f}{median:12.1f}{high:12.1f}")
        spread = float(good["energy_kj_mol"].std(ddof=0)) / thermal_energy_kj_mol(temperature_kelvin)
        lines.append(f"spread of the energy: {spread:.1f} kT at {temperature_kelvin:g} K")
        lines.append(f"clashes: {good['clashes'].mean():.2g} per conformer")
    return "\n".join(lines)


def _resumed(
    scorer: Scorer | ExactScorer, ensemble: Ensemble, chosen: Int[np.ndarray, " chosen"], work: Path
) -> pd.DataFrame:
    """Rows of all chosen conformers, those of an earlier try from its files."""
    kept = [read_table(path) for path in sorted(work.glob("rows_*.parquet"))]
    done = {int(c) for part in kept for c in part["conformer"]}
    missing = np.array([c for c in chosen if int(c) not in done], dtype=np.int64)
    rows = scorer.rows(missing, ensemble.positions_nm[missing])
    described = f"score {ensemble.molecule.name}"
    with tqdm(total=len(chosen), initial=len(done), desc=described, unit="conformer") as bar:
        for part in _parts(rows, bar):
            table = pd.DataFrame(part)
            kept.append(table)
            if sum(len(k) for k in kept) < len(chosen):  # the last part goes into the output at once
                write_table(work / f"rows_{part[0]['conformer']:09d}.parquet", table)
    return pd.concat(kept).sort_values("conformer", ignore_index=True)


def _parts(rows: Iterator[dict[str, Any]], bar: Any) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists, one every few seconds."""
    part: list[dict[str, Any]] = []
    since = time.monotonic()
    for row in rows:
        part.append(row)
        bar.update()
        if time.monotonic() - since > _KEEP_EVERY_SECONDS:
            yield part
            part, since = [], time.monotonic()
    if part:
        yield part


def _remove(work: Path) -> None:
    """Remove a folder of rows, and ``.work`` once it is empty."""
    shutil.rmtree(work, ignore_errors=True)
    with contextlib.suppress(OSError):
        work.parent.rmdir()
