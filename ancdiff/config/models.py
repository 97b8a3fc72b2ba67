"""Network, noise, training, sampling and alignment."""

from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from ancdiff.config.base import Count, Fraction, NonNegative, Objective, Positive, Section, Variant


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
    compile: bool = Field(
        default=False,
        description="translate the layers to machine code (needs a C++ compiler): a minute, then half as fast again",
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
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: Positive = 6e-3
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
    solver: Literal["heun", "dpmpp_2m", "stochastic", "dpmpp_2m_sde", "rk4", "ancestral"] = "dpmpp_2m_sde"
    steps: Annotated[int, Field(ge=2, le=2000)] = 40
    rho: Positive = 7.0
    eta: NonNegative = Field(
        default=8.0, description="fresh noise of solver: dpmpp_2m_sde and ancestral; 1 is their papers'"
    )
    churn: NonNegative = Field(default=8.0, description="S_churn of EDM algorithm 2, used by solver: stochastic")
    batch_size: Count = 256
    log_density: Literal["none", "exact", "hutchinson", "path"] = Field(
        default="none",
        description="log p of every sample, for reweighting; with solver: rk4, or of its path; with solver: ancestral",
    )
    log_density_probes: Count = Field(
        default=8,
        description="random vectors of log_density: hutchinson, whose spread is its error; paths of log_density: path",
    )

    @model_validator(mode="after")
    def _density_of_the_solver(self) -> "SampleSettings":
        wanted = {"none": self.solver, "path": "ancestral"}.get(self.log_density, "rk4")
        if self.solver != wanted:
            raise ValueError(
                f"'log_density: {self.log_density}' is that of a solver's own samples: set 'solver: {wanted}' "
                f"(samples of '{self.solver}' have another density, which is not known)"
            )
        if self.log_density == "hutchinson" and self.log_density_probes < 2:
            raise ValueError("'log_density_probes: 1' has no spread: 'log_density: hutchinson' takes two or more")
        return self


class WeighSettings(Section):
    """Log-densities of training MD under a model, by paths, for alignment (align.anchor_energy: path)."""

    max_md_conformers: Count | None = Field(
        default=None,
        description="scored frames of each system that are weighed, as many in each Ramachandran basin; null: all",
    )


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
    optimizer: Literal["adamw", "muon"] = "adamw"
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
    anchor_update: Literal["all", "new", "bridge"] = Field(
        default="all",
        description="whose weights a round moves: all, or those of conformers new to the pool; or none: it finds those "
        "of MD and the latest samples by bridge sampling",
    )
    anchor_md: Literal["model", "temperature"] = Field(
        default="model",
        description="what anchor_update: new weighs training MD by: the pretrained model's density, or a temperature "
        "of its own, which a bridge to that model's samples finds",
    )
    anchor_ess_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="γ is lowered until the anchor's effective sample size is this share of the pool"
    )
    energy_feedback: bool = Field(
        default=False,
        description="take what the first model's samples have above what it learned off the mean energy of the pool",
    )
    anchor_local_sigma: NonNegative = Field(
        default=0.3, description="noise below which the anchor denoises training MD, in units of the data's spread"
    )
    anchor_energy: Literal["bound", "exact", "hutchinson", "path"] = Field(
        default="bound",
        description="model energies of the whole pool: the denoising error; −log p of the flow, its trace exact or "
        "estimated; or −log p by the paths of samples and MD frames (sample.log_density: path)",
    )
    anchor_noise_levels: Count = Field(default=64, description="of anchor_energy: bound, once a round")
    anchor_flow_steps: Annotated[int, Field(ge=2)] = Field(
        default=15, description="Runge-Kutta steps of anchor_energy: exact and hutchinson"
    )
    anchor_probes: Count = Field(default=8, description="random vectors of anchor_energy: hutchinson")
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

    @model_validator(mode="after")
    def _densities_of_paths(self) -> "LineSettings":
        if self.anchor_energy == "path" and self.anchor_update == "all":
            raise ValueError(
                "'anchor_energy: path' knows training MD and the samples of a round's first model: set 'anchor_update' "
                "to 'new' or 'bridge'"
            )
        return self

    @model_validator(mode="after")
    def _md_weighed_once(self) -> "LineSettings":
        if self.anchor_md == "temperature" and self.anchor_update != "new":
            raise ValueError("'anchor_md: temperature' weighs training MD once: set 'anchor_update: new'")
        return self

    @model_validator(mode="after")
    def _two_ends_of_a_bridge(self) -> "LineSettings":
        if self.anchor_update == "bridge" and self.energy_feedback:
            raise ValueError(
                "'energy_feedback' needs the energies of all that is learned, and with 'anchor_update: bridge' frames "
                "without energies are learned as well: set 'energy_feedback: false'"
            )
        if self.anchor_update == "bridge" and (self.replay_models != 1 or self.temper is not None):
            raise ValueError(
                "'anchor_update: bridge' weighs training MD and the samples of one model at the run's temperature: "
                "set 'replay_models: 1' and 'temper: null'"
            )
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
