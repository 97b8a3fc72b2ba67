"""A whole run in one process, stage after stage as the workflow's rules call them: seconds instead of a minute."""

import json
from pathlib import Path
from types import SimpleNamespace

from ancdiff import align, dataset, evaluate, pretrain, report, sample, score, simulate
from ancdiff.config import Config, StageConfig, load_config
from ancdiff.corridor import MD_ENSEMBLES, PRETRAINED, Layout, seed_of
from ancdiff.origins import is_scored
from ancdiff.preflight import check_systems
from ancdiff.workflow import Corridor


def run_everything(path: Path, results: Path) -> Config:
    """Run a configuration from nothing to its report below ``results``."""
    config = load_config(path)
    check_systems(config)
    corridor, layout = Corridor(config), Layout(results)

    def stage(name: str) -> StageConfig:
        return StageConfig(json.loads(corridor.settings(name)))

    for system in config.systems:
        for md in MD_ENSEMBLES:
            simulate.run(stage("simulate"), system=system, md=md, results=results)
    dataset.run(stage("dataset"), results=results)
    for ensemble in MD_ENSEMBLES:
        _score(config, corridor, layout, ensemble)
    for model in corridor.models:
        if model == PRETRAINED:
            pretrain.run(stage("pretrain"), results=results, seed=seed_of(model, config), threads=1)
        else:
            align.run(stage("align"), results=results, model=model, seed=seed_of(model, config), threads=1)
        for system in config.systems:
            sample.run(
                stage("sample"),
                model=layout.model(model),
                topology=layout.topology(system),
                output=layout.ensemble(model, system),
                seed=corridor.sample_seed(SimpleNamespace(model=model, system=system)),
                threads=1,
            )
        _score(config, corridor, layout, model)
    evaluate.run(stage("evaluate"), results=results)
    report.run(stage("report"), results=results)
    return config


def _score(config: Config, corridor: Corridor, layout: Layout, ensemble: str) -> None:
    for system in (name for name, one in config.systems.items() if is_scored(one)):
        settings = StageConfig(json.loads(corridor.score_settings(SimpleNamespace(system=system))))
        score.run(
            settings,
            topology=layout.topology(system),
            conformers=layout.ensemble(ensemble, system),
            output=layout.energies(ensemble, system),
            max_conformers=config.score.max_md_conformers if ensemble in MD_ENSEMBLES else None,
            threads=1,
        )
