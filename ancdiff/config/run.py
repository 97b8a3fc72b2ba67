"""The whole run: its name and seeds, its results, and all sections together."""

import json
from typing import Annotated

from pydantic import Field, model_validator

from ancdiff.config.base import Count, Name, Positive, Section, Seed
from ancdiff.config.models import (
    AlignSettings,
    DenoiserSettings,
    DiffusionSettings,
    GenerateSettings,
    PretrainSettings,
    SampleSettings,
    WeighSettings,
)
from ancdiff.config.physics import DatasetSettings, ForcefieldSettings, ScoreSettings, SimulateSettings
from ancdiff.config.systems import SystemSettings


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
    weigh: WeighSettings = WeighSettings()
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

    @model_validator(mode="after")
    def _some_frames_weighed(self) -> "Config":
        lines = (self.align, *self.align.variants.values())
        each = any(
            line.anchor_energy == "path" and line.anchor_update == "new" and line.anchor_md == "model" for line in lines
        )
        if each and self.weigh.max_md_conformers is not None:
            raise ValueError(
                "'align.anchor_update: new' weighs each frame of training MD by its own density: set "
                "'weigh.max_md_conformers: null', or 'align.anchor_md: temperature'"
            )
        return self

    def sections(self, *names: str) -> str:
        """The named sections as canonical JSON: what the workflow hands to a stage and what makes it rerun."""
        chosen = self.model_dump(mode="json", include=set(names))
        missing = set(names) - set(chosen)
        if missing:
            raise KeyError(f"no such section: {', '.join(sorted(missing))}")
        return json.dumps(chosen, sort_keys=True, separators=(",", ":"))
