"""Frames of one MD data set of one system, as they were read and before they are checked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from ancdiff.molecules import Molecule


@dataclass(frozen=True, eq=False)
class MdFrames:
    """Frames in order of replica and, within a replica, of time.

    ``frame`` is the index in the file that the frame came from, ``files`` are all files that were read, and ``notes``
    say what a person should know about the reading (residues left out, chain breaks …).
    """

    molecule: Molecule
    positions_nm: Float[np.ndarray, "frames atoms 3"]
    replica: Int[np.ndarray, " frames"]
    frame: Int[np.ndarray, " frames"]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.positions_nm)
