"""The configuration: frozen sections, unknown keys are errors, and the only defaults in the house.

A section is named after its stage (``simulate``, ``score`` …) or after the thing that several stages share
(``forcefield``, ``denoiser``, ``diffusion``). The workflow hands each stage the sections it reads, as one JSON
string (`Config.sections`), so that a change reruns exactly the stages that read it.

A settings class holds values and checks them; it has no other methods. Code stamps leave this package out (see
`ancdiff.provenance`), so that behaviour put here would change without a rerun.
"""

from ancdiff.config.base import (
    Basin,
    Count,
    Fraction,
    Kelvin,
    Law,
    Name,
    NonNegative,
    Objective,
    Positive,
    Potential,
    Section,
    Seed,
    Variant,
    Vector,
)
from ancdiff.config.models import (
    AlignSettings,
    DenoiserSettings,
    DiffusionSettings,
    GenerateSettings,
    LineSettings,
    PretrainSettings,
    SampleSettings,
    TemperSettings,
    WeighSettings,
)
from ancdiff.config.physics import (
    DatasetSettings,
    EmbeddingSettings,
    ForcefieldSettings,
    ReferenceMdSettings,
    ScoreSettings,
    SimulateSettings,
    TemperingSettings,
    TrainingMdSettings,
)
from ancdiff.config.reading import StageConfig, load_config, parse_config
from ancdiff.config.run import Config, EvaluateSettings, ReportSettings, RunSettings
from ancdiff.config.systems import CompoundSettings, ConformerSettings, ExactSettings, PointsSettings, SystemSettings

__all__ = [
    "AlignSettings",
    "Basin",
    "CompoundSettings",
    "Config",
    "ConformerSettings",
    "Count",
    "DatasetSettings",
    "DenoiserSettings",
    "DiffusionSettings",
    "EmbeddingSettings",
    "EvaluateSettings",
    "ExactSettings",
    "ForcefieldSettings",
    "Fraction",
    "GenerateSettings",
    "Kelvin",
    "Law",
    "LineSettings",
    "Name",
    "NonNegative",
    "Objective",
    "PointsSettings",
    "Positive",
    "Potential",
    "PretrainSettings",
    "ReferenceMdSettings",
    "ReportSettings",
    "RunSettings",
    "SampleSettings",
    "ScoreSettings",
    "Section",
    "Seed",
    "SimulateSettings",
    "StageConfig",
    "SystemSettings",
    "TemperSettings",
    "TemperingSettings",
    "TrainingMdSettings",
    "Variant",
    "Vector",
    "WeighSettings",
    "load_config",
    "parse_config",
]
