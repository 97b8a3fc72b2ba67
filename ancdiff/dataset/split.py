"""Which frames train, which validate, and which make up the two independent halves of a data set."""

import numpy as np
from jaxtyping import Bool, Int


def validation_frames(replica: Int[np.ndarray, " frames"], fraction: float) -> Bool[np.ndarray, " frames"]:
    """The last part of each replica, ⌊fraction · n + ½⌋ of its n frames; frames come in order of time.

    Neighbouring frames are alike, so a random choice would validate on near copies of training frames. Where every
    replica is too short to give one, the very last frame of all is taken, if another is left to train on.
    """
    validation = np.zeros(len(replica), dtype=bool)
    for r in np.unique(replica):
        frames = np.flatnonzero(replica == r)
        count = min(int(fraction * len(frames) + 0.5), len(frames) - 1)
        validation[frames[len(frames) - count :]] = True
    if not validation.any() and len(replica) > 1:
        validation[-1] = True
    return validation


def independent_halves(replica: Int[np.ndarray, " frames"]) -> Int[np.ndarray, " frames"]:
    """Half (0 or 1) of each frame: whole replicas where there are at least two, else the first and second half in time.

    Replicas go to the halves in the Thue-Morse order 0 1 1 0 1 0 0 1 …: replicas are often listed by starting
    structure, in blocks or in turns, and this order splits both kinds of list evenly.
    """
    replicas, rank = np.unique(replica, return_inverse=True)
    if len(replicas) < 2:
        return (np.arange(len(replica)) >= (len(replica) + 1) // 2).astype(np.int64)
    return np.array([int(r).bit_count() % 2 for r in range(len(replicas))], dtype=np.int64)[rank]
