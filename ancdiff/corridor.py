"""The corridor: which models and ensembles a run has, and where each artifact lies.

An *ensemble* is a named set of conformers of one system: the two MD data sets (``training``, ``reference``) or the
samples of a *model*. A model is ``pretrain`` or ``<line>_round<r>``, e.g. ``eba_round2``; a *line* of models is an
objective, or a variant of one with settings of its own, ``<objective>_<word>``. In a run with several seeds each model
exists once for each and carries its own: ``pretrain_seed2027``, ``eba_round2_seed2027``.
Pure names and paths; nothing here touches the disk.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from ancdiff.config import (
    AlignSettings,
    Config,
    GenerateSettings,
    LineSettings,
    Objective,
)

MD_ENSEMBLES = ("training", "reference")
PRETRAINED = "pretrain"
PARTS = ("train", "validation", "test")
"""Of a set of compounds."""
TEST_PART = PARTS[2]
"""The part that stands beside the generated sets in tables."""
LOG_DENSITIES = "log_density.parquet"
"""Table beside a model's samples, where their log-densities were asked for."""
POSTERIORS = "posteriors.json"
"""The kernels' covariances, beside samples that were weighed by their paths: what weighs others by the same."""
MEAN_OVER_SYSTEMS = "(mean)"
"""Stands for a system's name in tables; no system can be called this."""

_OBJECTIVES = sorted(get_args(Objective), key=len, reverse=True)  # eba_dpo is tried before eba
_LINES = f"(?:{'|'.join(_OBJECTIVES)})(?:_[a-z]+)?"
_SEED = "(?:0|[1-9][0-9]*)"
ALIGNED_PATTERN = f"(?:{_LINES})_round[1-9][0-9]*(?:_seed{_SEED})?"
"""Names of aligned models, for the rule that makes them."""
REPLICATE_PATTERN = f"(?:/seed{_SEED})?"
"""What stands between ``pretrain`` and its files: nothing in a run with one seed, ``/seed<s>`` in one with several."""
_REWEIGHTED = "_reweighted"
_MODEL = re.compile(
    f"^(?:(?P<pretrained>{PRETRAINED})|(?P<objective>{_LINES})_round(?P<round>[1-9][0-9]*))"
    f"(?:_seed(?P<seed>{_SEED}))?(?P<reweighted>{_REWEIGHTED})?$"
)


@dataclass(frozen=True)
class ModelName:
    """What a model's name says: its line (``pretrain``, an objective or a variant), round (0: pretrained) and seed.

    ``seed`` is None in a run with one seed. ``reweighted`` is the ensemble of a model's samples under importance
    weights, which exists in the tables of `evaluate` alone.
    """

    line: str
    round_number: int
    seed: int | None = None
    reweighted: bool = False

    def __str__(self) -> str:
        name = PRETRAINED if self.round_number == 0 else f"{self.line}_round{self.round_number}"
        seed = "" if self.seed is None else f"_seed{self.seed}"
        return f"{name}{seed}{_REWEIGHTED if self.reweighted else ''}"


def split_model(model: str) -> ModelName:
    """Line, round and seed of a model's name.

    Raises:
        ValueError: this is not a model's name.
    """
    match = _MODEL.match(model)
    if match is None:
        raise ValueError(
            f"'{model}' is not a model's name (pretrain or <objective>_round<r>, with _seed<s>, then _reweighted)"
        )
    seed = None if match["seed"] is None else int(match["seed"])
    line, round_number = (PRETRAINED, 0) if match["pretrained"] else (match["objective"], int(match["round"]))
    return ModelName(line, round_number, seed, reweighted=match["reweighted"] is not None)


def objective_of(line: str) -> str:
    """The objective of a line: itself, or that of the variant."""
    return next(name for name in _OBJECTIVES if line == name or line.startswith(f"{name}_"))


def line_settings(align: AlignSettings, line: str) -> LineSettings:
    """What a line's rounds are made with."""
    return align.variants.get(line, align)


def only_line(align: AlignSettings, line: str) -> AlignSettings:
    """The settings without the other lines: what one line's models depend on."""
    variants = {name: settings for name, settings in align.variants.items() if name == line}
    return align.model_copy(update={"objectives": (line,), "variants": variants})


def replayed(lineage: Sequence[str], align: AlignSettings) -> list[str]:
    """Those of a model's ancestors whose samples are in its pool, the oldest first."""
    models = line_settings(align, split_model(lineage[-1]).line).replay_models
    return list(lineage) if models is None else list(lineage)[-models:]


def reweighted(model: str) -> str:
    """Name of a model's samples under importance weights: ``eba_round2`` → ``eba_round2_reweighted``."""
    return str(replace(split_model(model), reweighted=True))


def aligned_model(objective: str, round_number: int, seed: int | None = None) -> str:
    """Name of the model after a round of alignment; round 0 is the pretrained one."""
    return str(ModelName(objective, round_number, seed))


def without_seed(model: str) -> str:
    """Name that the models of all seeds share: ``eba_round2_seed2027`` → ``eba_round2``."""
    return str(replace(split_model(model), seed=None))


def ancestors(model: str) -> list[str]:
    """The models that an aligned model came from, pretrained first; all of its own seed."""
    name = split_model(model)
    return [str(replace(name, round_number=r)) for r in range(name.round_number)]


def models(config: Config) -> list[str]:
    """Every model of the run, in the order in which they come to be, one seed after the other."""
    return [str(name) for seed in named_seeds(config) for name in _lines(config, seed)]


def pretrained_models(config: Config) -> list[str]:
    """The models before any alignment, one for each seed."""
    return [model for model in models(config) if split_model(model).round_number == 0]


def generated_sets(settings: GenerateSettings) -> dict[int, int]:
    """Network evaluations of each set of compounds, and how many it has; the main one first."""
    compared = {n: settings.compared_compounds for n in settings.compared_evaluations if n != settings.evaluations}
    return {settings.evaluations: settings.compounds} | compared


def named_seeds(config: Config) -> tuple[int | None, ...]:
    """The seeds as they stand in models' names: none in a run with one seed."""
    seeds = config.run.seeds
    return seeds if len(seeds) > 1 else (None,)


def seed_of(model: str, config: Config) -> int:
    """The seed that a model of this run is trained with."""
    seed = split_model(model).seed
    return config.run.seeds[0] if seed is None else seed


def replicate_model(replicate: str) -> str:
    """The pretrained model in a folder ``pretrain<replicate>``: ``/seed2027`` → ``pretrain_seed2027``."""
    return PRETRAINED + replicate.replace("/", "_")


def _lines(config: Config, seed: int | None) -> list[ModelName]:
    rounds = range(1, config.align.rounds + 1)
    aligned = [ModelName(objective, r, seed) for objective in config.align.objectives for r in rounds]
    return [ModelName(PRETRAINED, 0, seed), *aligned]


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
        name = split_model(model)
        if name.round_number:
            return self.root / "align" / model / "model.safetensors"
        folder = self.root / PRETRAINED
        return (folder if name.seed is None else folder / f"seed{name.seed}") / "model.safetensors"

    def ensemble(self, ensemble: str, system: str) -> Path:
        """Trajectory of an ensemble: checked MD or a model's samples."""
        if ensemble in MD_ENSEMBLES:
            return self.root / "dataset" / system / f"{ensemble}.dcd"
        return self.root / "sample" / ensemble / system / "conformers.dcd"

    def log_densities(self, ensemble: str, system: str) -> Path:
        """Log-density of each sample of a model, beside the samples."""
        return self.ensemble(ensemble, system).parent / LOG_DENSITIES

    def posteriors(self, model: str, system: str) -> Path:
        """What the kernels of a model's sampling paths take for covariances, beside the samples."""
        return self.ensemble(model, system).parent / POSTERIORS

    def frame_log_densities(self, model: str, system: str) -> Path:
        """Log-density under a model of each scored frame of the training MD."""
        return self.root / "weigh" / model / f"{system}.parquet"

    def energies(self, ensemble: str, system: str) -> Path:
        """One row per conformer of an ensemble."""
        return self.root / "score" / ensemble / f"{system}.parquet"

    def part(self, part: str, system: str) -> Path:
        """A part of a set of compounds: ``train``, ``validation`` or ``test``."""
        return self.root / "dataset" / system / f"{part}.safetensors"

    def generated(self, model: str, system: str, evaluations: int) -> Path:
        """Compounds that a model generated with so many network evaluations each; SDF lies beside them."""
        return self.root / "generate" / model / system / f"evaluations_{evaluations}.safetensors"
