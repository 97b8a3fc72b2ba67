"""The configuration: frozen sections, unknown keys are errors, and the only defaults in the house.

A section is named after its stage (``simulate``, ``score`` …) or after the thing that several stages share
(``forcefield``, ``denoiser``, ``diffusion``). The workflow hands each stage the sections it reads, as one JSON
string (`Config.sections`), so that a change reruns exactly the stages that read it.

A settings class holds values and checks them; it has no other methods. Code stamps leave this module out (see
`ancdiff.provenance`), so that behaviour put here would change without a rerun.
"""

import difflib
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ancdiff.errors import ConfigError
from ancdiff.exact_systems import check_parameters, n_wells
from ancdiff.sequences import check_sequence
from ancdiff.units import FEMTOSECONDS_PER_PS

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Kelvin = Annotated[float, Field(ge=50, le=2000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

Objective = Literal["eba", "eba_reference", "eba_dpo", "dpo", "none"]
VARIANT = r"(?:eba_reference|eba_dpo|eba|dpo|none)_[a-z]+"
"""Name of a line of models with settings of its own: its objective, and a word."""
Variant = Annotated[str, Field(pattern=f"^{VARIANT}$")]
Basin = Literal["alpha_r", "beta", "alpha_l"]
Potential = Literal["double_well", "dw4", "lj13", "lj55"]
Law = Literal["mixture", "sphere", "helix", "torus"]
Vector = Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]


class Section(BaseModel):
    """A frozen part of the configuration; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RunSettings(Section):
    """What this run is called and its seeds."""

    name: Name = "peptides"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        default=(2026,),
        description="of training and sampling; several: every model is trained and sampled once for each",
    )

    @model_validator(mode="after")
    def _distinct_seeds(self) -> "RunSettings":
        twice = sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"'seeds' holds {', '.join(map(str, twice))} more than once; give each seed once")
        return self


class CompoundSettings(Section):
    """A set of many different small molecules with one geometry each (QM9), to learn from and to generate like."""

    source: str = Field(description="archive of xyz files (.tar, .tar.bz2 …) or SDF")
    excluded: str | None = Field(
        default=None, description="list of compounds to leave out: lines that start with their numbers"
    )
    download: bool = Field(
        default=False, description="fetch QM9's own files to these two paths where they are not there"
    )
    shares: tuple[Count, Count, Count] = Field(
        default=(100_000, 17_748, 13_083), description="of training, validation and test; just these of all of QM9"
    )
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="0: the split of EDM")


class PointsSettings(Section):
    """Clouds of points drawn independently from a law; lengths but `length_nm` are reduced (1 is `length_nm`)."""

    law: Law
    n_points: Annotated[int, Field(ge=2, le=9999)] = 24
    n_clouds: Annotated[int, Field(ge=2)] = Field(default=2000, description="to learn from; as many are held out")
    means: Annotated[tuple[Vector, ...], Field(min_length=2, max_length=2)] = Field(
        default=((-2.0, 0.0, 0.0), (2.0, 0.0, 0.0)), description="mixture: means of its two unit Gaussians, half each"
    )
    radius: Positive = Field(default=2.0, description="of the sphere, of the helix, of the torus' middle circle")
    tube_radius: Positive = Field(default=0.7, description="torus: of its tube; below radius")
    pitch: Positive = Field(default=1.5, description="helix: rise of a turn")
    turns: Positive = Field(default=2.0, description="helix: how many")
    jitter: NonNegative = Field(default=0.1, description="sphere, helix, torus: standard deviation about the shape")
    length_nm: Positive = Field(default=0.1, description="nm in one reduced length")
    seed: Seed = 2026

    @model_validator(mode="after")
    def _own_parameters(self) -> "PointsSettings":
        own = {"mixture": {"means"}, "sphere": {"radius", "jitter"}, "helix": {"radius", "pitch", "turns", "jitter"}}
        own["torus"] = {"radius", "tube_radius", "jitter"}
        foreign = set.union(*own.values()) - own[self.law]
        # A dump of the settings has every key; one that says what the default says changes nothing.
        changed = [k for k in sorted(foreign) if getattr(self, k) != type(self).model_fields[k].default]
        if changed:
            raise ValueError(
                f"law '{self.law}' has no {', '.join(changed)}; it has: {', '.join(sorted(own[self.law]))}"
            )
        if self.law == "torus" and self.tube_radius >= self.radius:
            raise ValueError("'tube_radius' must be below 'radius'")
        return self


class ExactSettings(Section):
    """Identical particles with an exact energy in reduced units: kT = 1 at 300 K, 1 length is `length_nm`."""

    potential: Potential
    parameters: dict[str, float] = Field(default_factory=dict, description="instead of the literature's")
    length_nm: Positive = Field(default=0.1, description="nm in one reduced length")
    training_frames: Annotated[int, Field(ge=2)] = Field(default=4000, description="to learn from")
    training_shares: tuple[NonNegative, ...] = Field(
        default=(), description="share of each well in the training data; double_well: short, long; dw4: 0 … 6 long"
    )
    training_kelvin: Kelvin | None = Field(
        default=None, description="temperature of the training data; null: forcefield.temperature_kelvin"
    )

    @model_validator(mode="after")
    def _known_parameters(self) -> "ExactSettings":
        check_parameters(self.potential, self.parameters)
        wells = n_wells(self.potential)
        if self.training_shares and (len(self.training_shares) != wells or not sum(self.training_shares) > 0):
            one = "one share, of its only well" if wells == 1 else f"{wells} shares, not all 0"
            raise ValueError(f"'training_shares' of '{self.potential}': give {one}, or leave it out")
        return self


class ConformerSettings(Section):
    """A small molecule with all its atoms, of which `simulate` makes conformers: by SMILES, or out of a file."""

    smiles: str | None = Field(default=None, description="e.g. CC(=O)OCC; hydrogens are added")
    file: str | None = Field(default=None, description="SDF or MOL file, or an archive of xyz files (QM9)")
    record: Count = Field(default=1, description="which one of the file, from 1; of an archive: its number (gdb_7: 7)")

    @model_validator(mode="after")
    def _one_molecule(self) -> "ConformerSettings":
        if (self.smiles is None) == (self.file is None):
            raise ValueError("give either 'smiles' or 'file' (with 'record')")
        if self.file is None and self.record != 1:
            raise ValueError("'record' goes with 'file'")
        return self


class SystemSettings(Section):
    """One molecule: a sequence or a graph that `simulate` builds, own trajectories, points, or an exact system."""

    sequence: str | None = Field(default=None, description="residue names joined by '-', e.g. ACE-ALA-NME")
    training_basins: dict[Basin, NonNegative] = Field(
        default_factory=dict, description="share of training replicas started in each basin of every residue"
    )
    reference_ns: Positive | None = Field(
        default=None, description="nanoseconds of each reference walker; default simulate.reference.replica_ns"
    )
    topology: str | None = Field(default=None, description="PDB, mmCIF or SDF file of the molecule (own MD)")
    training: tuple[str, ...] = Field(default=(), description="trajectory files to learn from (own MD)")
    reference: tuple[str, ...] = Field(default=(), description="trajectory files to compare with (own MD)")
    points: PointsSettings | None = Field(default=None, description="clouds of points from a law")
    exact: ExactSettings | None = Field(default=None, description="particles with an exact energy")
    conformers: ConformerSettings | None = Field(default=None, description="a small molecule, with conformers to make")
    compounds: CompoundSettings | None = Field(default=None, description="a set of many different molecules")
    split: Literal["train", "test"] = Field(
        default="train", description="test: never seen in training, sampled all the same"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "SystemSettings":
        if self.compounds is not None:
            given = {name for name, value in self.model_dump(exclude_defaults=True).items() if value} - {"compounds"}
            if given:
                raise ValueError(f"'compounds' stands alone: a set of compounds has no {', '.join(sorted(given))}")
            return self
        kinds = ("sequence", "topology", "points", "exact", "conformers")
        origins = [k for k in kinds if getattr(self, k) is not None]
        if len(origins) != 1:
            raise ValueError(
                "give either 'sequence' (built and simulated) or 'topology' with 'training' (own MD), or 'points' "
                "(a law), 'exact' (a potential) or 'conformers' (a small molecule): one of the five, not "
                f"{', '.join(origins) or 'none'}"
            )
        if self.topology is not None and not self.training:
            raise ValueError("'topology' needs 'training': a list of trajectory files")
        if self.topology is None and (self.training or self.reference):
            raise ValueError("'training' and 'reference' are trajectory files: they go with 'topology'")
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
    small_molecule: Literal["mmff94", "gfn2-xtb"] | None = Field(
        default=None, description="of molecules whose topology is an SDF file, all atoms, without solvent"
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


class TemperingSettings(Section):
    """Parallel tempering of the exact systems: MALA steps of independent ladders of walkers, with exchanges."""

    walkers: Annotated[int, Field(ge=8)] = Field(
        default=48, description="independent ladders; their spread gives errors"
    )
    hotter_factors: tuple[Annotated[float, Field(gt=1)], ...] = Field(
        default=(1.25, 1.6, 2.2), description="temperatures of a ladder above the lowest, as multiples of it, rising"
    )
    equilibration_steps: Count = 2000
    steps: Count = 10_000
    steps_per_frame: Count = 60
    steps_per_exchange: Count = 10

    @model_validator(mode="after")
    def _rising(self) -> "TemperingSettings":
        if any(hot <= cold for cold, hot in pairwise(self.hotter_factors)):
            raise ValueError(f"hotter_factors {list(self.hotter_factors)} must rise")
        if self.steps < self.steps_per_frame:
            raise ValueError("'steps' must be at least 'steps_per_frame'")
        return self


class EmbeddingSettings(Section):
    """Conformers of small molecules: embedded (ETKDG), relaxed with the scoring energy, near copies dropped."""

    embeddings: Annotated[int, Field(ge=2)] = Field(
        default=60, description="tried for the training set, and for each of the two sets of the reference"
    )
    window_kj_mol: Positive = Field(default=25.0, description="highest energy above the set's lowest")
    rmsd_nm: Positive = Field(
        default=0.01, description="conformers nearer than this (heavy atoms, polar hydrogens) are one"
    )


class SimulateSettings(Section):
    """Molecular dynamics of the systems given as sequences; parallel tempering of the exact ones; conformers."""

    source: Literal["bundled", "run"] = Field(
        default="bundled", description="bundled: the data of data/peptides, made by this stage; run: make them again"
    )
    seed: Seed = Field(
        default=2026, description="of the dynamics alone, so that runs with several seeds learn from the same MD"
    )
    timestep_fs: Annotated[float, Field(gt=0, le=5)] = 4.0
    hydrogen_mass_amu: Annotated[float, Field(ge=1.0, le=4.0)] = Field(
        default=3.0, description="mass moved to each hydrogen from its heavy atom, which leaves populations as they are"
    )
    friction_per_ps: Positive = 1.0
    training: TrainingMdSettings = TrainingMdSettings()
    reference: ReferenceMdSettings = ReferenceMdSettings()
    tempering: TemperingSettings = TemperingSettings()
    conformers: EmbeddingSettings = EmbeddingSettings()

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
    type_scale: Positive = Field(
        default=0.25, description="compounds: length of an atom type's one-hot, in units of the data's spread"
    )


class DiffusionSettings(Section):
    """Noise, in units of the data's own spread σ_data: EDM (arXiv 2206.00364), or variance preserving (2011.13456)."""

    process: Literal["edm", "vp"] = Field(
        default="edm", description="vp: x_t = √α_t x_0 + σ_t ε with the denoising score-matching loss"
    )
    sigma_min: Positive = Field(default=0.004, description="lowest noise, in units of the data's spread")
    sigma_max: Positive = Field(default=3.0, description="highest noise, in units of the data's spread")
    training_median: Positive = Field(default=0.55, description="median of the log-normal training noise, same units")
    training_log_width: Positive = 1.4
    training_uniform_share: Fraction = Field(
        default=0.4, description="share of training noise that is uniform in ln σ from sigma_min to sigma_max"
    )
    superpose: bool = Field(default=True, description="superpose the denoising target on the noisy input (Kabsch)")
    beta_min: Positive = Field(default=0.1, description="vp: rate β(0) of the noise, which rises linearly in t")
    beta_max: Positive = Field(default=20.0, description="vp: rate β(1)")
    time_min: Annotated[float, Field(gt=0, lt=1)] = Field(default=1e-3, description="vp: lowest t")
    dsm_weight: Literal["unit", "variance"] = Field(
        default="unit", description="vp: λ(t) of the loss λ ‖s_θ + ε/σ_t‖²: 1, or σ_t²"
    )

    @model_validator(mode="after")
    def _one_process(self) -> "DiffusionSettings":
        if self.process == "vp" and self.superpose:
            raise ValueError("process: vp has no superposed target; set superpose: false")
        if self.beta_max < self.beta_min:
            raise ValueError("'beta_max' must not be below 'beta_min'")
        return self


class PretrainSettings(Section):
    """Denoising training on the training MD."""

    steps: Count = 7000
    batch_size: Count = 80
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 0.0
    warmup_steps: Count = 100
    gradient_clip: Positive = 1.0
    ema_halflife_steps: Positive = 100.0
    validate_every_steps: Count = 250
    checkpoint_every_seconds: Positive = 20.0
    blocks: Count = Field(default=4, description="compounds: sizes in a batch, each a dense block without padding")
    type_weight: Positive = Field(default=0.3, description="compounds: of the atom types in the loss")


class SampleSettings(Section):
    """Reverse diffusion. A step of the multistep solvers costs one network evaluation, one of the others two."""

    conformers: Count = 400
    solver: Literal["heun", "dpmpp_2m", "stochastic", "dpmpp_2m_sde", "rk4"] = "dpmpp_2m_sde"
    steps: Annotated[int, Field(ge=2, le=500)] = 40
    rho: Positive = 7.0
    eta: NonNegative = Field(default=8.0, description="fresh noise of solver: dpmpp_2m_sde; 1 is its paper's")
    churn: NonNegative = Field(default=8.0, description="S_churn of EDM algorithm 2, used by solver: stochastic")
    batch_size: Count = 256
    log_density: Literal["none", "exact", "hutchinson"] = Field(
        default="none", description="log p of every sample, for reweighting; with solver: rk4"
    )
    log_density_probes: Annotated[int, Field(ge=2)] = Field(
        default=8, description="random vectors of log_density: hutchinson; their spread is its error"
    )

    @model_validator(mode="after")
    def _density_of_the_ode(self) -> "SampleSettings":
        if self.log_density != "none" and self.solver != "rk4":
            raise ValueError(
                f"'log_density: {self.log_density}' is that of the ODE's own samples: set 'solver: rk4' "
                f"(samples of '{self.solver}' have another density, which is not known)"
            )
        return self


class GenerateSettings(Section):
    """New compounds from a model: their number of atoms is drawn from the data, the rest by reverse diffusion."""

    compounds: Count = 10_000
    solver: Literal["heun", "dpmpp_2m", "stochastic", "dpmpp_2m_sde"] = "heun"
    evaluations: Annotated[int, Field(ge=3, le=2000)] = Field(
        default=50, description="network evaluations of a compound, at most (heun and stochastic: an odd number)"
    )
    compared_evaluations: tuple[Annotated[int, Field(ge=3, le=2000)], ...] = Field(
        default=(10, 20, 100), description="further sets with so many, to compare"
    )
    compared_compounds: Count = Field(default=1000, description="in each of the sets to compare")
    rho: Positive = 7.0
    eta: NonNegative = Field(default=8.0, description="fresh noise of solver: dpmpp_2m_sde; 1 is its paper's")
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
    strain: bool = Field(
        default=False, description="relax fully beside it: strain_kj_mol is then lost on the way to the nearest minimum"
    )
    max_md_conformers: Count = Field(default=640, description="evenly spaced frames scored of each MD data set")

    @model_validator(mode="after")
    def _entropy_of_relaxed_hydrogens(self) -> "ScoreSettings":
        if self.hydrogen_entropy != "none" and self.relax != "hydrogens":
            raise ValueError("'hydrogen_entropy: harmonic' goes with 'relax: hydrogens'")
        return self


class TemperSettings(Section):
    """Weights at temperatures above that of the run: a ladder over rounds, a target for each system, or both."""

    target_ess_fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=0.3,
        description="effective sample size wanted, as a share of a system's scored conformers; null: the ladder alone",
    )
    max_kelvin: Annotated[float, Field(ge=50, le=100_000)] = Field(
        default=2000.0,
        description="no higher than this, even where the target is not reached (proteins may need 5,000)",
    )
    ladder_kelvin: tuple[Annotated[float, Field(ge=50, le=100_000)], ...] = Field(
        default=(),
        description="falling temperatures of the first rounds; later ones are at forcefield.temperature_kelvin",
    )

    @model_validator(mode="after")
    def _falls(self) -> "TemperSettings":
        if any(later > earlier for earlier, later in pairwise(self.ladder_kelvin)):
            raise ValueError(f"'ladder_kelvin' must fall from round to round, not {list(self.ladder_kelvin)}")
        return self


class LineSettings(Section):
    """One round of a line of models: an objective, the groups it looks at, and the anchor."""

    steps: Count = 150
    learning_rate: Positive = 5e-4
    gradient_clip: Positive = 1.0
    ema_halflife_steps: Positive = 40.0
    alpha: Positive = 1.0
    objective_weight: NonNegative = Field(default=0.001, description="weight of the objective beside the anchor")
    group_size: Annotated[int, Field(ge=2)] = 8
    groups_per_step: Count = 1
    data_fraction: Fraction = 0.5
    replay_models: Count | None = Field(
        default=None, description="models whose samples are in the pool, the latest ones; null: all of the line"
    )
    noise_levels: Count = 8
    antithetic: bool = Field(
        default=True, description="half as many noise levels, each with its noise and the opposite one"
    )
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
    anchor_step: Fraction = Field(default=0.5, description="largest γ by which a round moves the anchor's log-weights")
    anchor_update: Literal["all", "new"] = Field(
        default="all", description="whose weights a round moves: all, or those of conformers new to the pool"
    )
    anchor_ess_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="γ is lowered until the anchor's effective sample size is this share of the pool"
    )
    anchor_local_sigma: NonNegative = Field(
        default=0.3, description="noise below which the anchor denoises training MD, in units of the data's spread"
    )
    anchor_energy: Literal["bound", "exact", "hutchinson"] = Field(
        default="bound",
        description="model energies of the whole pool: the denoising error, or −log p of the flow, its trace exact or "
        "estimated",
    )
    anchor_noise_levels: Count = Field(default=64, description="of anchor_energy: bound, once a round")
    anchor_flow_steps: Annotated[int, Field(ge=2)] = Field(
        default=15, description="Runge-Kutta steps of the other kinds of anchor_energy"
    )
    anchor_probes: Annotated[int, Field(ge=2)] = Field(
        default=8, description="random vectors of anchor_energy: hutchinson"
    )
    validate_every_steps: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="0: all steps are made; else a tenth of the pool is held out, whose denoising loss decides",
    )
    patience: Count = Field(default=3, description="validations without a lower loss after which a round stops early")
    checkpoint_every_seconds: Positive = 20.0

    @model_validator(mode="after")
    def _noise_in_pairs(self) -> "LineSettings":
        if self.antithetic and (self.noise_levels % 2 or self.anchor_noise_levels % 2):
            raise ValueError("'antithetic: true' needs even 'noise_levels' and 'anchor_noise_levels'")
        return self


class AlignSettings(LineSettings):
    """Energy-based alignment (EBA, arXiv 2505.24203) in rounds of sample → score → align."""

    objectives: Annotated[tuple[Objective | Variant, ...], Field(min_length=1)] = Field(
        default=("eba", "none"), description="the lines of models: objectives, and names of `variants`"
    )
    rounds: Annotated[int, Field(ge=0)] = 2
    variants: dict[Variant, LineSettings] = Field(
        default={}, description="lines with settings of their own: <objective>_<word>, and what differs"
    )

    @model_validator(mode="after")
    def _known_lines(self) -> "AlignSettings":
        known = (*get_args(Objective), *self.variants)
        for name in self.objectives:
            if name not in known:
                raise ValueError(f"'objectives' has '{name}'; known are: {', '.join(known)}")
        return self


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
    shape_conformers: Count = Field(
        default=100, description="conformers of particles whose nearest one of the reference is sought"
    )
    shape_candidates: Count = Field(
        default=3, description="how many of the most alike ones are superposed to find the nearest"
    )
    coverage_threshold_nm: Positive = Field(
        default=0.05, description="small molecules: RMSD without hydrogens within which a conformer is found"
    )
    coverage_conformers: Count = Field(
        default=400, description="small molecules: conformers of each ensemble compared, evenly spaced"
    )
    seed: Seed = 7
    likelihood_compounds: Count = Field(
        default=1000, description="compounds of the test part whose likelihood is bounded"
    )
    likelihood_levels: Count = Field(default=32, description="noise levels of the likelihood bound")


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
    generate: GenerateSettings = GenerateSettings()
    score: ScoreSettings = ScoreSettings()
    align: AlignSettings = AlignSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _one_kind(self) -> "Config":
        kinds = {system.compounds is not None for system in self.systems.values()}
        if len(kinds) > 1 or (True in kinds and len(self.systems) > 1):
            raise ValueError("a set of compounds is a run of its own: give it a file with no other system")
        if True in kinds and self.diffusion.process != "edm":
            raise ValueError("a set of compounds is learned with diffusion.process: edm")
        return self

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
        return Config.model_validate_json(json.dumps(_with_whole_variants(raw), default=str))
    except ValidationError as error:
        lines = [_describe(problem) for problem in error.errors()]
        raise ConfigError(
            "the configuration does not hold:\n" + "\n".join(f"    {line}" for line in lines),
            where=where,
            fix="mend these keys; config.yaml documents every key, its unit and its default",
        ) from error


def _with_whole_variants(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same, each of ``align.variants`` with what it leaves out taken from ``align`` itself.

    Before it is checked, as values that were left out cannot be told from defaults afterwards.
    """
    align = raw.get("align")
    if not isinstance(align, Mapping) or not isinstance(align.get("variants"), Mapping):
        return dict(raw)
    shared = {key: value for key, value in align.items() if key in LineSettings.model_fields}
    whole = {n: shared | dict(own) if isinstance(own, Mapping) else own for n, own in align["variants"].items()}
    return {**raw, "align": {**align, "variants": whole}}


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
        section: type[BaseModel] = SystemSettings
        location = location[2:]
    else:
        section = Config
    for part in location:
        if part not in section.model_fields:  # a name that the user gave, of one of several alike
            continue
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
