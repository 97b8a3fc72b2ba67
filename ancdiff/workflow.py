"""What the workflow's rules ask, answered from a run's configuration: settings, seeds, inputs of each job.

The Snakefile and the command line import this, the stages do not: a stage's code stamp stays the same when a rule asks
something new. Imports nothing heavy, since each cluster job parses the Snakefile again.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ancdiff.config import Config, parse_config
from ancdiff.corridor import (
    ALIGNED_PATTERN,
    LOG_DENSITIES,
    MD_ENSEMBLES,
    PARTS,
    POSTERIORS,
    REPLICATE_PATTERN,
    Layout,
    ancestors,
    generated_sets,
    line_settings,
    models,
    only_line,
    pretrained_models,
    replayed,
    replicate_model,
    seed_of,
    split_model,
    without_seed,
)
from ancdiff.errors import AncdiffError
from ancdiff.origins import (
    bundled_files,
    compound_sources,
    is_particles,
    is_scored,
    is_simulated,
    own_files,
)
from ancdiff.preflight import check_systems
from ancdiff.provenance import code_stamp

# The sections of the configuration that each stage reads: what its rule hands to it, and what makes it rerun. A job
# that trains or samples gets its one seed beside them, not `run` with all of them: one more seed reruns nothing.
SECTIONS: dict[str, tuple[str, ...]] = {
    "simulate": ("systems", "forcefield", "simulate"),
    "dataset": ("systems", "dataset"),
    "pretrain": ("systems", "denoiser", "diffusion", "pretrain"),
    "sample": ("diffusion", "sample"),
    "score": ("systems", "forcefield", "score"),
    "weigh": ("diffusion", "sample", "weigh"),
    "align": ("systems", "forcefield", "diffusion", "align"),
    "generate": ("diffusion", "generate"),
    "evaluate": ("run", "systems", "forcefield", "align", "evaluate"),
    "report": ("run", "systems", "align", "report"),
}


class Corridor:
    """One run's way through the stages, as the rules ask for it. What takes ``wildcards`` is an input function."""

    sections = SECTIONS
    aligned_pattern = ALIGNED_PATTERN
    replicate_pattern = REPLICATE_PATTERN

    def __init__(self, config: Config) -> None:
        self.config = config
        self.layout = Layout(Path("results") / config.run.name)
        self.systems = list(config.systems)
        self.trained = [name for name, system in config.systems.items() if system.split == "train"]
        self.models = models(config)

    @property
    def root(self) -> str:
        """Folder of the run's artifacts."""
        return str(self.layout.root)

    def results(self, wildcards: Any) -> str:
        """Folder of the run's artifacts, as a rule's parameter."""
        return self.root

    def settings(self, stage: str) -> str:
        """The sections that a stage reads, as canonical JSON."""
        return self.config.sections(*self.sections[stage])

    def code(self, stage: str) -> str:
        """Stamp of the code that a stage runs; a change of it reruns the stage."""
        return code_stamp(f"ancdiff.{stage}")

    def simulate_settings(self, wildcards: Any) -> str:
        """As `settings`, with the one system only: another system's change does not simulate this one again."""
        sections = json.loads(self.settings("simulate"))
        sections["systems"] = {wildcards.system: sections["systems"][wildcards.system]}
        return json.dumps(sections, sort_keys=True, separators=(",", ":"))

    def simulate_threads(self, wildcards: Any) -> int:
        """Threads of a simulation: two where the reference of a peptide is run, which has repeats."""
        simulate, system = self.config.simulate, self.config.systems[wildcards.system]
        runs = simulate.source == "run" and system.sequence is not None and wildcards.md == "reference"
        return min(2, simulate.reference.repeats) if runs else 1

    def simulate_inputs(self, wildcards: Any) -> list[Path]:
        """Bundled files of an MD data set, where the run copies them; or the file that a small molecule is in."""
        if self.config.simulate.source != "bundled":
            return self.forcefield_files(wildcards) + own_files(self.config.systems[wildcards.system])
        system = self.config.systems[wildcards.system]
        return own_files(system) if system.sequence is None else bundled_files(wildcards.system, wildcards.md)

    def forcefield_files(self, wildcards: Any) -> list[Path]:
        """The user's own force-field files; OpenMM's own, given by name, are none."""
        return [Path(name) for name in self.config.forcefield.xml if Path(name).is_file()]

    def score_settings(self, wildcards: Any) -> str:
        """As `settings`, with the one system where it has an exact energy, which is written there; else with none."""
        sections = json.loads(self.settings("score"))
        exact = self.config.systems[wildcards.system].exact is not None
        sections["systems"] = {wildcards.system: sections["systems"][wildcards.system]} if exact else {}
        return json.dumps(sections, sort_keys=True, separators=(",", ":"))

    def pretrained_model(self, wildcards: Any) -> str:
        """The model of a pretraining job."""
        return replicate_model(wildcards.replicate)

    def pretrain_seed(self, wildcards: Any) -> int:
        """Seed of a pretraining job."""
        return seed_of(self.pretrained_model(wildcards), self.config)

    def align_settings(self, wildcards: Any) -> str:
        """As `settings`, with the one line only: another line's change does not train this one again."""
        align = only_line(self.config.align, split_model(wildcards.model).line)
        return self.config.model_copy(update={"align": align}).sections(*SECTIONS["align"])

    def align_threads(self, wildcards: Any) -> int:
        """Threads of an alignment job: the bound of a pool's energies takes two, all else goes one after the other."""
        line = line_settings(self.config.align, split_model(wildcards.model).line)
        return 2 if line.anchor > 0 and line.anchor_energy == "bound" else 1

    def path_threads(self, wildcards: Any) -> int:
        """Threads of a job that draws or weighs by paths: two where no job like it can take the second core.

        Jobs of other systems, seeds and, once lines have parted, of other lines run at the same time.
        """
        lines = 1 if split_model(wildcards.model).round_number == 0 else len(self.config.align.objectives)
        alike = lines * len(self.config.run.seeds) * len(self.config.systems)
        return 2 if alike == 1 and self.config.sample.solver == "ancestral" else 1

    def align_seed(self, wildcards: Any) -> int:
        """Seed of an alignment job."""
        return seed_of(wildcards.model, self.config)

    def sample_seed(self, wildcards: Any) -> int:
        """Seed of the samples of one model and system: SHA-256 of the model's seed and both names, below 2³¹.

        The name is taken without its seed: a model draws the same samples in a run with one seed and with several.
        """
        return self._derived_seed(wildcards)

    def weigh_seed(self, wildcards: Any) -> int:
        """Seed of the weights of training MD under one model, derived like that of its samples."""
        return self._derived_seed(wildcards, "/weigh")

    def _derived_seed(self, wildcards: Any, what: str = "") -> int:
        seed = seed_of(wildcards.model, self.config)
        text = f"{seed}/{without_seed(wildcards.model)}/{wildcards.system}{what}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def md_ensembles(self, system: str) -> list[str]:
        """MD data sets that a system has: a user's own one may come without a reference."""
        settings = self.config.systems[system]
        return [md for md in MD_ENSEMBLES if is_simulated(settings) or getattr(settings, md)]

    def ensembles(self, system: str) -> list[str]:
        """Every ensemble of a system, MD first."""
        return self.md_ensembles(system) + self.models

    def dataset_inputs(self, wildcards: Any) -> dict[str, list[Path]]:
        """Simulated trajectories with their records and frame tables, and the user's own files."""
        simulated = [
            self.layout.simulated(name, md)
            for name, system in self.config.systems.items()
            if is_simulated(system)
            for md in MD_ENSEMBLES
        ]
        return {
            "simulated": simulated,
            "frames": [path.with_suffix(".parquet") for path in simulated],
            "own": [
                path
                for system in self.config.systems.values()
                if not is_simulated(system)
                for path in own_files(system)
            ],
        }

    def dataset_trajectories(self) -> list[Path]:
        """Checked MD of every system."""
        return [self.layout.ensemble(md, name) for name in self.systems for md in self.md_ensembles(name)]

    def dataset_records(self) -> list[Path]:
        """What made each checked trajectory."""
        return [path.with_suffix(".json") for path in self.dataset_trajectories()]

    def dataset_topologies(self) -> list[Path]:
        """Heavy-atom topology of every system."""
        return [self.layout.topology(name) for name in self.systems]

    def training_trajectories(self) -> list[Path]:
        """Checked training MD of the systems that models learn from."""
        return [self.layout.ensemble("training", name) for name in self.trained]

    def model(self, wildcards: Any) -> Path:
        """Weights of the model to sample from."""
        return self.layout.model(wildcards.model)

    def model_record(self, wildcards: Any) -> Path:
        """What made the model to sample from."""
        return self.layout.model(wildcards.model).with_suffix(".json")

    def conformers(self, wildcards: Any) -> Path:
        """Trajectory of the ensemble to score."""
        return self.layout.ensemble(wildcards.ensemble, wildcards.system)

    def topology(self, wildcards: Any) -> Path:
        """Topology of the system to sample or score."""
        return self.layout.topology(wildcards.system)

    def generate_compounds(self, wildcards: Any) -> int:
        """How many compounds to generate: none but in a run of compounds."""
        return 0

    def max_conformers(self, wildcards: Any) -> str:
        """Command-line limit for scoring: MD is thinned, samples are all scored."""
        limit = self.config.score.max_md_conformers
        return f"--max-conformers {limit}" if wildcards.ensemble in MD_ENSEMBLES else ""

    def align_inputs(self, wildcards: Any) -> dict[str, Path | list[Path]]:
        """The last round's model, and conformers with energies of training MD and of the ancestors in its pool."""
        lineage = ancestors(wildcards.model)
        pool = [(e, name) for e in ("training", *replayed(lineage, self.config.align)) for name in self.trained]
        with_densities = self.trained if self._has_densities else []
        return {
            "model": self.layout.model(lineage[-1]),
            "conformers": [self.layout.ensemble(*member) for member in pool],
            "energies": [self.layout.energies(*member) for member in pool],
            "densities": [self.layout.log_densities(lineage[-1], name) for name in with_densities],
            "frames": [self.layout.frame_log_densities(lineage[-1], name) for name in self._weighed(wildcards.model)],
            # The last round's anchor weights; the pretrained model has none.
            "weights": [self.layout.model(model).parent / "weights.parquet" for model in lineage[1:][-1:]],
        }

    def _weighed(self, model: str) -> list[str]:
        """Systems whose training MD is weighed by paths before a model's round."""
        name = split_model(model)
        line = line_settings(self.config.align, name.line)
        asked = name.line != "none" and (line.anchor > 0 or line.validate_every_steps > 0)
        new = name.round_number == 1 or line.anchor_update == "bridge"
        return self.trained if asked and new and line.anchor_energy == "path" else []

    def sampled_densities(self) -> list[str]:
        """Patterns of what lies beside samples with log-densities: a table; and the kernels, if they are of paths."""
        kept = [LOG_DENSITIES] if self._has_densities else []
        if self.config.sample.log_density == "path":
            kept.append(POSTERIORS)
        return [f"{self.root}/sample/{{model}}/{{system}}/{name}" for name in kept]

    @property
    def _has_densities(self) -> bool:
        return self.config.sample.log_density != "none"

    def evaluate_inputs(self, wildcards: Any) -> dict[str, list[Path]]:
        """Every ensemble of every system, its energies and log-densities; the models, where there are particles."""
        pairs = [(ensemble, name) for name in self.systems for ensemble in self.ensembles(name)]
        sampled = [pair for pair in pairs if pair[0] not in MD_ENSEMBLES and self._has_densities]
        particles = any(is_particles(system) for system in self.config.systems.values())
        return {
            "densities": [self.layout.log_densities(*pair) for pair in sampled],
            "conformers": [self.layout.ensemble(*pair) for pair in pairs],
            "energies": [self.layout.energies(*pair) for pair in pairs if is_scored(self.config.systems[pair[1]])],
            "networks": [self.layout.model(model) for model in self.models] if particles else [],
        }

    def report_inputs(self, wildcards: Any) -> dict[str, list[Path]]:
        """Everything that evaluation read, and the training curves and weights of every model."""
        folders = [self.layout.model(model).parent for model in self.models]
        aligned = [model for model in self.models if split_model(model).round_number]
        return self.evaluate_inputs(wildcards) | {
            "models": [self.layout.model(model).with_suffix(".json") for model in self.models],
            "curves": [folder / "metrics.parquet" for folder in folders],
            "weights": [self.layout.model(model).parent / "weights.parquet" for model in aligned],
        }


class CompoundCorridor(Corridor):
    """The way of a set of compounds: dataset, pretrain, generate, evaluate, report."""

    sections = SECTIONS | {  # no energies and no rounds, but generated sets
        "evaluate": ("run", "systems", "diffusion", "generate", "evaluate"),
        "report": ("run", "systems", "generate", "report"),
    }

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.models = pretrained_models(config)

    def dataset_inputs(self, wildcards: Any) -> dict[str, list[Path]]:
        """The archive and the list of what to leave out, unless they are to be downloaded."""
        settings = [system.compounds for system in self.config.systems.values() if system.compounds]
        return {"own": [Path(path) for one in settings if not one.download for path in compound_sources(one)]}

    def dataset_trajectories(self) -> list[Path]:
        """The three parts of the set."""
        return [self.layout.part(part, name) for name in self.systems for part in PARTS]

    def dataset_topologies(self) -> list[Path]:
        """None: every compound has its own."""
        return []

    def training_trajectories(self) -> list[Path]:
        """The parts that are trained on and validated with."""
        return [self.layout.part(part, name) for name in self.systems for part in PARTS[:2]]

    def generate_compounds(self, wildcards: Any) -> int:
        """How many compounds are generated with so many network evaluations."""
        return generated_sets(self.config.generate)[int(wildcards.evaluations)]

    def evaluate_inputs(self, wildcards: Any) -> dict[str, list[Path]]:
        """Every generated set, the parts, and the models, for their likelihoods."""
        generated = [
            self.layout.generated(model, name, evaluations)
            for model in self.models
            for name in self.systems
            for evaluations in generated_sets(self.config.generate)
        ]
        models = [self.layout.model(model) for model in self.models]
        return {"generated": generated, "parts": self.dataset_trajectories(), "models": models}

    def report_inputs(self, wildcards: Any) -> dict[str, list[Path]]:
        """Everything that evaluation read, and the training curves."""
        curves = [self.layout.model(model).parent / "metrics.parquet" for model in self.models]
        return self.evaluate_inputs(wildcards) | {"curves": curves}


def corridor_of(config: Config) -> Corridor:
    """The way through the stages that fits a run's systems."""
    compounds = any(system.compounds for system in config.systems.values())
    return CompoundCorridor(config) if compounds else Corridor(config)


def open_run(raw: Mapping[str, Any], files: Iterable[Any] = ()) -> Corridor:
    """Check a run's configuration before its first job, for the Snakefile; ``files`` are where it comes from.

    Rules start ``python``; the one beside the running interpreter comes first on PATH, so an environment need not be
    activated. (A conda environment that a rule activates comes before it again.)

    Raises:
        SystemExit: the configuration does not hold or a file is missing; carries the message, without a traceback.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    try:
        config = parse_config(raw, where=", ".join(os.path.relpath(path) for path in files) or "config.yaml")
        check_systems(config)
    except AncdiffError as error:
        print(f"ancdiff: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    return corridor_of(config)
