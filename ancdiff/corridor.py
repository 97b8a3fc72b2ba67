"""The corridor: which models and ensembles a run has, and where each artifact lies.

An *ensemble* is a named set of conformers of one system: the two MD data sets (``training``, ``reference``) or the
samples of a *model*. A model is ``pretrain`` or ``<objective>_round<r>``, e.g. ``eba_round2``.
Pure names and paths; nothing here touches the disk.
"""

import re
from pathlib import Path

from ancdiff.config import Config

MD_ENSEMBLES = ("training", "reference")
PRETRAINED = "pretrain"
PARTS = ("train", "validation", "test")
"""Of a set of compounds."""
_ALIGNED = re.compile(r"^(?P<objective>eba_dpo|eba|none)_round(?P<round>[1-9][0-9]*)$")


def aligned_model(objective: str, round_number: int) -> str:
    """Name of the model after a round of alignment; round 0 is the pretrained one."""
    return PRETRAINED if round_number == 0 else f"{objective}_round{round_number}"


def split_model(model: str) -> tuple[str, int]:
    """Objective and round of an aligned model's name.

    Raises:
        ValueError: the name is not that of an aligned model.
    """
    match = _ALIGNED.match(model)
    if match is None:
        raise ValueError(f"'{model}' is not an aligned model's name (<objective>_round<r>)")
    return match["objective"], int(match["round"])


def ancestors(model: str) -> list[str]:
    """The models that an aligned model came from, pretrained first."""
    objective, round_number = split_model(model)
    return [aligned_model(objective, r) for r in range(round_number)]


def models(config: Config) -> list[str]:
    """Every model of the run, in the order in which they come to be."""
    rounds = range(1, config.align.rounds + 1)
    return [PRETRAINED] + [aligned_model(o, r) for o in config.align.objectives for r in rounds]


class Layout:
    """Paths of one run's artifacts under ``results/<run>/``; a stage's name is its folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def simulated(self, system: str, md: str) -> Path:
        """Trajectory of an MD data set; ``topology.pdb`` lies beside it."""
        return self.root / "simulate" / system / f"{md}.dcd"

    def topology(self, system: str) -> Path:
        """Heavy-atom topology that every ensemble of the system shares."""
        return self.root / "dataset" / system / "topology.pdb"

    def model(self, model: str) -> Path:
        """Weights of a model; ``model.json`` beside them says what made them."""
        folder = self.root / PRETRAINED if model == PRETRAINED else self.root / "align" / model
        return folder / "model.safetensors"

    def ensemble(self, ensemble: str, system: str) -> Path:
        """Trajectory of an ensemble: checked MD or a model's samples."""
        if ensemble in MD_ENSEMBLES:
            return self.root / "dataset" / system / f"{ensemble}.dcd"
        return self.root / "sample" / ensemble / system / "conformers.dcd"

    def energies(self, ensemble: str, system: str) -> Path:
        """One row per conformer of an ensemble."""
        return self.root / "score" / ensemble / f"{system}.parquet"

    def part(self, part: str, system: str) -> Path:
        """A part of a set of compounds: ``train``, ``validation`` or ``test``."""
        return self.root / "dataset" / system / f"{part}.safetensors"

    def generated(self, model: str, system: str, evaluations: int) -> Path:
        """Compounds that a model generated with so many network evaluations each; SDF lies beside them."""
        return self.root / "generate" / model / system / f"evaluations_{evaluations}.safetensors"
