"""Force field, simulations, data and energies."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ancdiff.config.base import Count, Kelvin, NonNegative, Positive, Section, Seed
from ancdiff.units import FEMTOSECONDS_PER_PS

# A C–H bond whose hydrogen has 3 amu swings once in about 17 fs: eight steps to a swing.
LONGEST_FREE_HYDROGEN_STEP_FS = 2.0


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
    atoms: Literal["heavy", "all"] = Field(
        default="heavy",
        description="kept in the frames. heavy: bonds to hydrogen are constrained; all: they move, as their density "
        "has to be known",
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
    def _steps_that_follow_hydrogens(self) -> "SimulateSettings":
        if self.atoms == "all" and self.timestep_fs > LONGEST_FREE_HYDROGEN_STEP_FS:
            raise ValueError(
                f"'atoms: all' leaves bonds to hydrogen free, whose vibration needs 'timestep_fs' of at most "
                f"{LONGEST_FREE_HYDROGEN_STEP_FS:g}, not {self.timestep_fs:g}"
            )
        return self

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
