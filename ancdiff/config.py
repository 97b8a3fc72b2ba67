"""The configuration: frozen sections, unknown keys are errors, and the only defaults in the house.

A section is named after its stage (``simulate``, ``score`` …) or after the thing that several stages share
(``forcefield``, ``denoiser``, ``diffusion``). The workflow hands each stage the sections it reads, as one JSON
string (`Config.sections`), so that a change reruns exactly the stages that read it.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ancdiff.errors import ConfigError
from ancdiff.units import FEMTOSECONDS_PER_PS

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Kelvin = Annotated[float, Field(ge=50, le=2000)]

Objective = Literal["eba", "eba_dpo", "none"]
Basin = Literal["alpha_r", "beta", "alpha_l"]


class Section(BaseModel):
    """A frozen part of the configuration; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


AMINO_ACIDS: tuple[str, ...] = (
    *("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE"),
    *("LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL"),
)


def check_sequence(sequence: str) -> tuple[str, ...]:
    """Residue names of a capped peptide, ``ACE-…-NME``; imports nothing heavy, so that it runs before the first job.

    Raises:
        ValueError: the sequence cannot be built; says which residue, where, and what to type.
    """
    names = tuple(sequence.split("-"))
    example = "write three-letter names between the caps, e.g. ACE-ALA-NME"
    for place, name in enumerate(names, start=1):
        at = f"residue {place} of '{sequence}'"
        if name in ("ACE", "NME"):
            wanted, end = (1, "start") if name == "ACE" else (len(names), "end")
            if place != wanted:
                raise ValueError(f"{at}: the cap {name} belongs at the {end}; {example}")
        elif name not in AMINO_ACIDS:
            near = difflib.get_close_matches(name.upper(), AMINO_ACIDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(AMINO_ACIDS)}"
            raise ValueError(f"{at}: '{name}' is not a standard amino acid; {hint}; {example}")
    if names[0] != "ACE" or names[-1] != "NME":
        raise ValueError(f"'{sequence}' has a free end; type ACE-…-NME: charged termini cannot be built; {example}")
    if len(names) < 3:
        raise ValueError(f"'{sequence}' has no amino acid between its caps; {example}")
    return names


class RunSettings(Section):
    """What this run is called and its seed."""

    name: Name = "peptides"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 2026


class SystemSettings(Section):
    """One molecule: a peptide sequence that `simulate` builds, or the user's own topology and trajectories."""

    sequence: str | None = Field(default=None, description="residue names joined by '-', e.g. ACE-ALA-NME")
    training_basins: dict[Basin, NonNegative] = Field(
        default_factory=dict, description="share of training replicas started in each basin of every residue"
    )
    reference_ns: Positive | None = Field(
        default=None, description="nanoseconds of each reference walker; default simulate.reference.replica_ns"
    )
    topology: str | None = Field(default=None, description="PDB or mmCIF file of the molecule (own MD)")
    training: tuple[str, ...] = Field(default=(), description="trajectory files to learn from (own MD)")
    reference: tuple[str, ...] = Field(default=(), description="trajectory files to compare with (own MD)")
    split: Literal["train", "test"] = Field(
        default="train", description="test: never seen in training, sampled all the same"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "SystemSettings":
        if (self.sequence is None) == (self.topology is None):
            raise ValueError("give either 'sequence' (built and simulated) or 'topology' with 'training' (own MD)")
        if self.topology is not None and not self.training:
            raise ValueError("'topology' needs 'training': a list of trajectory files")
        if self.sequence is None and (self.training_basins or self.reference_ns):
            raise ValueError("'training_basins' and 'reference_ns' go with 'sequence'")
        if self.sequence is not None:
            check_sequence(self.sequence)
        if self.training_basins and not sum(self.training_basins.values()) > 0:
            raise ValueError("'training_basins' are shares: at least one must be above 0")
        return self


class ForcefieldSettings(Section):
    """The force field, the same for simulation and scoring (populations can be compared only then)."""

    protein: Literal["ff14SB", "ff19SB", "amber99sb-ildn", "charmm36"] = "ff14SB"
    solvent: Literal["obc2", "gbn2", "vacuum"] = "obc2"
    xml: tuple[str, ...] = Field(
        default=(), description="OpenMM force-field files (own or OpenMM's), instead of protein and solvent"
    )
    cutoff_nm: Positive | None = Field(default=None, description="of non-bonded forces; null: none, which is exact")
    ph: Annotated[float, Field(ge=0, le=14)] = Field(
        default=7.0, description="at which hydrogens are added: decides Asp, Glu, Lys and His"
    )
    histidine: Literal["HIE", "HID", "hydrogen_bonds"] = Field(
        default="HIE",
        description="of neutral histidine, above pH 6.5; a topology's HID, HIE, HIP go before it",
    )
    temperature_kelvin: Kelvin = 300.0
    platform: Literal["auto", "Reference", "CPU", "CUDA", "OpenCL", "HIP"] = "auto"


class TrainingMdSettings(Section):
    """Many short replicas from chosen basins: what the model learns from, with wrong populations on purpose."""

    replicas: Count = 200
    replica_ps: Positive = 10.0
    equilibration_ps: NonNegative = Field(
        default=1.0, description="dropped from each replica's start, at tenfold friction"
    )
    frame_interval_ps: Positive = 0.5


class ReferenceMdSettings(Section):
    """Converged reference MD by temperature replica exchange, repeated independently for its error bars."""

    repeats: Annotated[int, Field(ge=2)] = 2
    replica_ns: Positive = Field(default=2.5, description="of each walker; a system's own reference_ns goes before it")
    equilibration_ns: NonNegative = 0.1
    hotter_kelvin: tuple[Kelvin, ...] = Field(
        default=(400.0, 530.0), description="temperatures of the walkers above forcefield.temperature_kelvin, rising"
    )
    exchange_interval_ps: Positive = 0.2
    frame_interval_ps: Positive = Field(default=0.4, description="frames of the lowest temperature; no others are kept")


class SimulateSettings(Section):
    """Molecular dynamics of the systems given as sequences."""

    source: Literal["bundled", "run"] = Field(
        default="bundled", description="bundled: the data of data/peptides, made by this stage; run: make them again"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=2026, description="of the dynamics alone, so that runs with several seeds learn from the same MD"
    )
    timestep_fs: Annotated[float, Field(gt=0, le=5)] = 4.0
    hydrogen_mass_amu: Annotated[float, Field(ge=1.0, le=4.0)] = Field(
        default=3.0, description="mass moved to each hydrogen from its heavy atom, which leaves populations as they are"
    )
    friction_per_ps: Positive = 1.0
    training: TrainingMdSettings = TrainingMdSettings()
    reference: ReferenceMdSettings = ReferenceMdSettings()

    @model_validator(mode="after")
    def _whole_intervals(self) -> "SimulateSettings":
        step_ps, exchange_ps = self.timestep_fs / FEMTOSECONDS_PER_PS, self.reference.exchange_interval_ps
        for key, span_ps, unit_ps, unit in (
            ("training.frame_interval_ps", self.training.frame_interval_ps, step_ps, "timestep_fs"),
            ("reference.exchange_interval_ps", exchange_ps, step_ps, "timestep_fs"),
            ("reference.frame_interval_ps", self.reference.frame_interval_ps, exchange_ps, "exchange_interval_ps"),
        ):
            ratio = span_ps / unit_ps
            if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6:
                raise ValueError(f"{key} ({span_ps} ps) must be a whole multiple of {unit} ({unit_ps:g} ps)")
        return self


class DatasetSettings(Section):
    """Reading, checking and splitting trajectories."""

    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    max_bond_stretch: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.3,
        description="a bond longer or shorter than its median by this fraction is broken: the frame is left out",
    )


class DenoiserSettings(Section):
    """The SE(3)-equivariant network."""

    features: Count = Field(default=128, description="width of the features of an atom")
    pair_features: Count = Field(
        default=32, description="width of the message between two atoms; the cost grows with it"
    )
    layers: Count = 4


class DiffusionSettings(Section):
    """Variance-exploding noise, in units of the data's own spread σ_data (EDM, arXiv 2206.00364)."""

    sigma_min: Positive = Field(default=0.004, description="lowest noise, in units of the data's spread")
    sigma_max: Positive = Field(default=3.0, description="highest noise, in units of the data's spread")
    training_median: Positive = Field(default=0.55, description="median of the log-normal training noise, same units")
    training_log_width: Positive = 1.4
    superpose: bool = Field(default=True, description="superpose the denoising target on the noisy input (Kabsch)")


class PretrainSettings(Section):
    """Denoising training on the training MD."""

    steps: Count = 3500
    batch_size: Count = 80
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 0.0
    warmup_steps: Count = 100
    gradient_clip: Positive = 1.0
    ema_halflife_steps: Positive = 100.0
    validate_every_steps: Count = 250
    checkpoint_every_seconds: Positive = 20.0


class SampleSettings(Section):
    """Reverse diffusion: a Heun step costs two network evaluations, the last one costs one (2·steps − 1)."""

    conformers: Count = 400
    solver: Literal["heun", "dpmpp_2m", "stochastic"] = "stochastic"
    steps: Annotated[int, Field(ge=2, le=500)] = 20
    rho: Positive = 7.0
    churn: NonNegative = Field(default=8.0, description="S_churn of EDM algorithm 2, used by solver: stochastic")
    batch_size: Count = 256


class ScoreSettings(Section):
    """Force-field energies of heavy-atom or all-atom conformers."""

    relax: Literal["none", "hydrogens", "restrained", "full"] = "hydrogens"
    polar_hydrogen_starts: Count = Field(
        default=3, description="minima tried for each rotatable polar hydrogen (OH, SH, NH3+); 1: only the nearest"
    )
    restraint_kj_mol_nm2: Positive = 10_000.0
    tolerance_kj_mol_nm: Positive = Field(
        default=1.0, description="RMS force at which relaxation ends; 10 leaves up to 0.7 kT"
    )
    max_iterations: Count = 500
    hydrogen_entropy: Literal["none", "harmonic"] = Field(
        default="none", description="harmonic: −TS of the hydrogens is added, to aim at the heavy atoms' marginal"
    )
    max_md_conformers: Count = Field(default=1024, description="evenly spaced frames scored of each MD data set")

    @model_validator(mode="after")
    def _entropy_of_relaxed_hydrogens(self) -> "ScoreSettings":
        if self.hydrogen_entropy != "none" and self.relax != "hydrogens":
            raise ValueError("'hydrogen_entropy: harmonic' goes with 'relax: hydrogens'")
        return self


class TemperSettings(Section):
    """Per-system effective temperature from a target effective sample size."""

    target_ess_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.3, description="effective sample size wanted, as a share of the system's scored conformers"
    )
    max_kelvin: Annotated[float, Field(ge=50, le=100_000)] = Field(
        default=2000.0,
        description="no higher than this, even where the target is not reached (proteins may need 5,000)",
    )


class AlignSettings(Section):
    """Energy-based alignment (EBA, arXiv 2505.24203) in rounds of sample → score → align."""

    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("eba", "none")
    rounds: Count = 2
    steps: Count = 150
    learning_rate: Positive = 5e-4
    gradient_clip: Positive = 1.0
    ema_halflife_steps: Positive = 40.0
    alpha: Positive = 1.0
    objective_weight: NonNegative = Field(default=0.001, description="weight of the objective beside the anchor")
    group_size: Annotated[int, Field(ge=2)] = 8
    groups_per_step: Count = 1
    data_fraction: Fraction = 0.5
    noise_levels: Count = 8
    energy_sigma_max: Positive = Field(
        default=2.0, description="highest noise of the model energy, in units of the spread"
    )
    weighting: Literal["likelihood", "paper"] = "likelihood"
    paper_scale: Positive = Field(default=5000.0, description="T of the paper's E_θ, used by weighting: paper")
    temper: TemperSettings | None = None
    anchor: NonNegative = Field(
        default=1.0, description="weight of importance-weighted denoising, which holds the denoiser"
    )
    anchor_batch_size: Count = Field(default=80, description="conformers of a step of the anchor, and of the control")
    anchor_step: Fraction = Field(default=0.4, description="largest γ by which a round moves the anchor's log-weights")
    anchor_ess_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="γ is lowered until the anchor's effective sample size is this share of the pool"
    )
    anchor_noise_levels: Count = Field(default=8, description="of the model energies of the whole pool, once a round")
    checkpoint_every_seconds: Positive = 20.0


class EvaluateSettings(Section):
    """Comparison of every ensemble with the reference."""

    ramachandran_bins: Annotated[int, Field(ge=4, le=180)] = Field(default=36, description="bins along each of φ and ψ")
    bootstrap_repeats: Annotated[int, Field(ge=20)] = 200
    bootstrap_blocks: Annotated[int, Field(ge=2)] = Field(
        default=20, description="MD with fewer replicas than this is cut in time, so that as many blocks are resampled"
    )
    floor_draws: Count = Field(
        default=20, description="draws of the sample size from each half of an MD data set, averaged"
    )
    counted_basin_population: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.05, description="basins rarer than this in the reference do not count in the free-energy error"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 7


class ReportSettings(Section):
    """The HTML report."""

    title: str = "Peptide ensembles, aligned with a force field"
    pictured_conformers: Count = Field(
        default=12, description="conformers of each ensemble in pictures and in the 3D view"
    )
    pictured_systems: Count = Field(default=12, description="systems with rows, maps and pictures of their own")
    mapped_residues: Count = Field(
        default=8, description="longer chains get one Ramachandran map of all residues together"
    )


class Config(Section):
    """A whole run. Every section has defaults; ``config.yaml`` documents each key where it stands."""

    run: RunSettings = RunSettings()
    systems: dict[Name, SystemSettings] = Field(default_factory=dict)
    forcefield: ForcefieldSettings = ForcefieldSettings()
    simulate: SimulateSettings = SimulateSettings()
    dataset: DatasetSettings = DatasetSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    pretrain: PretrainSettings = PretrainSettings()
    sample: SampleSettings = SampleSettings()
    score: ScoreSettings = ScoreSettings()
    align: AlignSettings = AlignSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

    def sections(self, *names: str) -> str:
        """The named sections as canonical JSON: what the workflow hands to a stage and what makes it rerun."""
        chosen = self.model_dump(mode="json", include=set(names))
        missing = set(names) - set(chosen)
        if missing:
            raise KeyError(f"no such section: {', '.join(sorted(missing))}")
        return json.dumps(chosen, sort_keys=True, separators=(",", ":"))


class StageConfig:
    """The sections that a stage was handed; reading another one is an error, not a silent default.

    A stage that read a section outside its rule's params would not be rerun when that section changes.
    """

    def __init__(self, sections: Mapping[str, Any]) -> None:
        self._names = frozenset(sections)
        self._config = parse_config(sections)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._names:
            raise ConfigError(
                f"this stage was not handed the section '{name}'",
                where=f"it was handed: {', '.join(sorted(self._names)) or 'nothing'}",
                fix=f"add '{name}' to the sections of its rule, or to --settings",
            )
        return getattr(self._config, name)

    def as_dict(self) -> dict[str, Any]:
        """The resolved sections, defaults included, for an artifact's record of what made it."""
        return self._config.model_dump(mode="json", include=set(self._names))


def parse_config(raw: Mapping[str, Any], *, where: str = "configuration") -> Config:
    """Check a mapping of sections.

    Raises:
        ConfigError: unknown keys, wrong types or impossible values, one line for each.
    """
    try:
        # JSON mode: a YAML list becomes a tuple, while a string where a number belongs stays an error. A YAML date
        # becomes text, to be told about by its key.
        return Config.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        lines = [_describe(problem) for problem in error.errors()]
        raise ConfigError(
            "the configuration does not hold:\n" + "\n".join(f"    {line}" for line in lines),
            where=where,
            fix="mend these keys; config.yaml documents every key, its unit and its default",
        ) from error


def load_config(path: Path) -> Config:
    """Read a YAML configuration.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not hold.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise ConfigError("there is no such configuration file", where=str(path)) from error
    except OSError as error:
        raise ConfigError(f"this configuration cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"this is not valid YAML: {error}", where=str(path)) from error
    if not isinstance(raw, dict):
        raise ConfigError("a configuration is a mapping of sections", where=str(path))
    return parse_config(raw, where=str(path))


def _describe(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "(top)"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggest(problem['loc'])}"
    given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r})"
    return f"{key}: {problem['msg']}{given}{_number_as_text(problem)}"


def _number_as_text(problem: Any) -> str:
    """YAML takes 2e-3 (no point, no sign after e) for text."""
    if problem["type"] not in ("float_type", "int_type") or not isinstance(problem["input"], str):
        return ""
    try:
        return f"; YAML takes this for text: write {float(problem['input']):g}, without quotes"
    except ValueError:
        return ""


def _suggest(location: tuple[int | str, ...]) -> str:
    """The nearest known key of the same section, for a mistyped one."""
    known = list(_known_keys(location[:-1]))
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known here: {', '.join(known)}" if known else ""


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section at a place in the configuration."""
    if location[:1] == ("systems",):
        return list(SystemSettings.model_fields) if len(location) == 2 else []
    section: type[BaseModel] = Config
    for part in location:
        inner = [
            kind
            for kind in (
                section.model_fields[str(part)].annotation,
                *get_args(section.model_fields[str(part)].annotation),
            )
            if isinstance(kind, type) and issubclass(kind, Section)
        ]
        if not inner:
            return []
        section = inner[0]
    return list(section.model_fields)
