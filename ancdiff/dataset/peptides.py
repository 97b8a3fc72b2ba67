"""Source of systems given as sequences, and of particles: what `simulate` made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ancdiff.artifacts import read_ensemble, read_table
from ancdiff.corridor import Layout
from ancdiff.dataset.frames import MdFrames
from ancdiff.dataset.residues import canonical_residue_name
from ancdiff.errors import InputError

_COLUMNS = ("frame", "replica", "time_ps")


def read_simulated(results: Path, system: str, md: str, *, residues: Sequence[str]) -> MdFrames:
    """Read one MD data set of a system from ``simulate/<system>/`` and the table of its frames.

    Raises:
        InputError: a file is missing or unreadable, the table does not fit the trajectory, or the molecule does not
            have the residues of the configuration.
    """
    path = Layout(results).simulated(system, md)
    again = f"run it again: ancdiff simulate --system {system} --md {md}"
    ensemble = read_ensemble(path, name=system)
    wanted = [canonical_residue_name(name) for name in residues]
    found = [canonical_residue_name(name) for name in ensemble.molecule.residue_names]
    if found != wanted:
        raise InputError(
            f"system {system} is {'-'.join(wanted)} in the configuration, but its MD is of {'-'.join(found)}",
            where=str(path),
            fix=again,
        )
    table_path = path.with_suffix(".parquet")
    table = read_table(table_path)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise InputError(f"the table of frames lacks {', '.join(missing)}", where=str(table_path), fix=again)
    if sorted(table["frame"]) != list(range(len(ensemble))):
        raise InputError(
            f"the {len(table)} frames of this table are not the {len(ensemble)} of the trajectory beside it",
            where=str(table_path),
            fix=again,
        )
    table = table.sort_values(["replica", "time_ps", "frame"], kind="stable")
    frame = table["frame"].to_numpy(dtype=np.int64)
    return MdFrames(
        molecule=ensemble.molecule,
        positions_nm=ensemble.positions_nm[frame],
        replica=table["replica"].to_numpy(dtype=np.int64),
        frame=frame,
        files=(path.parent / "topology.pdb", path, table_path),
    )
