"""The command line: one command for each stage. The workflow's rules are these commands; a person can type them too.

Settings come from ``--settings`` (the sections a stage reads, as JSON; what the workflow passes), from ``--config`` (a
YAML file of a whole run) or, with neither, from the package's defaults. Stages are imported when they are called.
"""

import ctypes
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ancdiff.config import Config, StageConfig, load_config, parse_config
from ancdiff.corridor import MD_ENSEMBLES, PRETRAINED, generated_sets, split_model
from ancdiff.errors import AncdiffError, ConfigError, StageError
from ancdiff.origins import describe
from ancdiff.preflight import check_systems
from ancdiff.workflow import corridor_of

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENMM_CPU_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_FILE = click.Path(path_type=Path)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES, _HEAP_BYTES = 1 << 30, 1 << 25


def main() -> None:
    """Run a command; a problem that the user can mend ends with its message and exit code, without a traceback."""
    try:
        commands(prog_name="ancdiff")
    except AncdiffError as error:
        click.echo(f"ancdiff: {error}", err=True)
        sys.exit(error.exit_code)


class _InOrder(click.Group):
    """Lists the commands in the order in which the workflow runs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="ancdiff")
def commands() -> None:
    """Conformational ensembles by equivariant diffusion, aligned with a force field.

    Each command is a stage of the workflow, in this order. `snakemake --cores all` runs them all.
    """


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_THREADS = click.option(
    "--threads", type=click.IntRange(min=1), default=_cores, show_default="all cores", help="CPU threads to use."
)
_CONFIG = click.option("--config", type=_FILE, metavar="FILE", help="Configuration of a run (YAML).")
_SETTINGS = click.option(
    "--settings",
    metavar="JSON",
    help="Sections of a configuration, as the workflow passes them; - reads them from stdin.",
)


def stage_command(stage: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command with the options that every stage has; the function gets ``settings`` and ``threads`` ready."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)  # and with it the stage's own options
        def ready(settings: str | None, config: Path | None, threads: int, **options: Any) -> None:
            # Before the stage is imported: the libraries read these once, when they are loaded.
            os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
            _keep_freed_memory()
            function(stage_settings(stage, settings, config), threads=threads, **options)

        for option in (_THREADS, _CONFIG, _SETTINGS):
            ready = option(ready)
        return commands.command(stage)(ready)

    return decorate


def stage_settings(stage: str, settings: str | None, config: Path | None) -> StageConfig:
    """The sections that a stage reads, from JSON, from a YAML file, or the defaults.

    Raises:
        ConfigError: both are given, the JSON is none, or the configuration does not hold.
    """
    if settings is not None and config is not None:
        raise ConfigError("--settings and --config are both given", where=f"ancdiff {stage}", fix="give one of them")
    if settings is None:
        whole = Config() if config is None else load_config(config)
        return StageConfig(json.loads(corridor_of(whole).settings(stage)))
    try:
        sections = json.loads(sys.stdin.read() if settings == "-" else settings)
    except ValueError as error:
        raise ConfigError(
            f"this is not valid JSON: {error}",
            where=f"ancdiff {stage} --settings",
            fix="""write sections as a JSON object, e.g. --settings '{"score": {"relax": "none"}}'""",
        ) from error
    if not isinstance(sections, dict):
        raise ConfigError("settings are a JSON object of sections", where=f"ancdiff {stage} --settings")
    read = corridor_of(parse_config(sections)).sections[stage]
    return StageConfig({name: {} for name in read} | sections)


def _keep_freed_memory() -> None:
    """Have glibc's allocator keep freed memory of up to 1 GiB for the next tensors; nothing elsewhere.

    Else each operation's result of a few MB is taken from the kernel again, page by page, and given back after it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _overridden(settings: StageConfig, section: str, **changes: Any) -> StageConfig:
    """Settings with the keys of a section that were given on the command line."""
    given = {key: value for key, value in changes.items() if value is not None}
    sections = settings.as_dict()
    return StageConfig(sections | {section: sections[section] | given})


def check_model(model: str, seed: int, *, pretrained: bool) -> None:
    """See that a stage is asked for a model that it makes, with the seed in its name where there is one.

    Raises:
        ConfigError: it is not.
    """
    example = "pretrain, or pretrain_seed2027" if pretrained else "eba_round1, or eba_round1_seed2027"
    try:
        name = split_model(model)
    except ValueError as error:
        raise ConfigError(str(error), where="--model", fix=f"type, for example, {example}") from None
    if (name.round_number == 0) != pretrained:
        raise ConfigError(f"this stage does not make the model '{model}'", where="--model", fix=f"type {example}")
    if name.seed not in (None, seed):
        raise ConfigError(
            f"the model's name says seed {name.seed}, not {seed}", where="--seed", fix=f"type --seed {name.seed}"
        )


_results = click.option(
    "--results", type=_FILE, required=True, metavar="DIR", help="Folder of the run, e.g. results/peptides."
)


@stage_command("simulate")
@_results
@click.option("--system", required=True, help="Name of a system that is given as a sequence.")
@click.option("--md", type=click.Choice(MD_ENSEMBLES), required=True, help="Which MD data set.")
def simulate(settings: StageConfig, *, results: Path, system: str, md: str, threads: int) -> None:
    """Molecular dynamics of one system."""
    from ancdiff.simulate import run

    run(settings, system=system, md=md, results=results, threads=threads)


@stage_command("dataset")
@_results
def dataset(settings: StageConfig, *, results: Path, threads: int) -> None:
    """Read, check and split the trajectories."""
    from ancdiff.dataset import run

    run(settings, results=results)


_seed = click.option("--seed", type=click.IntRange(min=0), required=True, help="Seed of the training.")


@stage_command("pretrain")
@_results
@click.option("--model", default=PRETRAINED, show_default=True, help="Model to make, pretrain or pretrain_seed<s>.")
@_seed
def pretrain(settings: StageConfig, *, results: Path, model: str, seed: int, threads: int) -> None:
    """Train the denoiser on the training MD; goes on from its last checkpoint."""
    from ancdiff.pretrain import run

    check_model(model, seed, pretrained=True)
    run(settings, results=results, model=model, seed=seed, threads=threads)


@stage_command("sample")
@click.option("--model", type=_FILE, required=True, help="model.safetensors, with model.json beside it.")
@click.option("--topology", type=_FILE, required=True, help="Molecule to sample, heavy atoms (PDB or mmCIF).")
@click.option("--output", type=_FILE, required=True, help="Trajectory to write (DCD); topology.pdb goes beside it.")
@click.option("--seed", type=click.IntRange(min=0), required=True, help="Seed of the noise.")
@click.option("--conformers", type=click.IntRange(min=1), help="How many; overrides sample.conformers.")
def sample(
    settings: StageConfig,
    *,
    model: Path,
    topology: Path,
    output: Path,
    seed: int,
    conformers: int | None,
    threads: int,
) -> None:
    """Draw conformers of one molecule from a model."""
    from ancdiff.sample import run

    settings = _overridden(settings, "sample", conformers=conformers)
    run(settings, model=model, topology=topology, output=output, seed=seed, threads=threads)


@stage_command("score")
@click.option("--topology", type=_FILE, required=True, multiple=True, help="The molecule (PDB, mmCIF; SDF, MOL).")
@click.option(
    "--conformers",
    type=_FILE,
    required=True,
    multiple=True,
    help="Trajectory (DCD, XTC, … whatever mdtraj reads; SDF, XYZ).",
)
@click.option("--output", type=_FILE, required=True, multiple=True, help="Table to write (Parquet), a row a conformer.")
@click.option("--max-conformers", type=click.IntRange(min=1), help="Score so many, evenly spaced. Default: all.")
@click.option("--relax", help="none, hydrogens, restrained or full; overrides score.relax.")
@click.option("--platform", help="OpenMM platform: auto, Reference, CPU, CUDA …; overrides forcefield.platform.")
@click.option("--small-molecule", help="mmff94 or gfn2-xtb, with an SDF topology; overrides forcefield.small_molecule.")
def score(
    settings: StageConfig,
    *,
    topology: tuple[Path, ...],
    conformers: tuple[Path, ...],
    output: tuple[Path, ...],
    max_conformers: int | None,
    relax: str | None,
    platform: str | None,
    small_molecule: str | None,
    threads: int,
) -> None:
    """Force-field energies of conformers; prints a summary.

    Several small molecules in one job: give --topology, --conformers and --output once for each, in the same order.
    """
    from ancdiff.artifacts import read_json, read_table
    from ancdiff.score import run, summary

    settings = _overridden(settings, "score", relax=relax)
    settings = _overridden(settings, "forcefield", platform=platform, small_molecule=small_molecule)
    if not len(topology) == len(conformers) == len(output):
        raise ConfigError(
            f"{len(topology)} topologies, {len(conformers)} trajectories, {len(output)} outputs",
            where="ancdiff score",
            fix="give --topology, --conformers and --output as often as each other, in the same order",
        )
    failed: list[AncdiffError] = []
    for files in zip(topology, conformers, output, strict=True):
        options = dict(zip(("topology", "conformers", "output"), files, strict=True))
        try:
            run(settings, **options, max_conformers=max_conformers, threads=threads)
        except AncdiffError as error:
            if len(output) == 1:
                raise
            failed.append(error)
            click.echo(f"ancdiff: {files[2]} was not made: {error}", err=True)
            continue
        table, scored = read_table(files[2]), read_json(files[2].with_suffix(".json"))["scored"]
        click.echo(f"{files[2]}\n{summary(table, scored, settings.forcefield.temperature_kelvin)}")
    if failed:
        raise StageError(
            f"{len(failed)} of {len(output)} molecules could not be scored; the others were",
            where="ancdiff score",
            fix="see the reasons above",
        )


@stage_command("weigh")
@click.option("--model", type=_FILE, required=True, help="model.safetensors, with its JSON beside it.")
@click.option("--posteriors", type=_FILE, required=True, help="posteriors.json beside the model's samples.")
@click.option("--topology", type=_FILE, required=True, help="The molecule.")
@click.option("--conformers", type=_FILE, required=True, help="Trajectory.")
@click.option("--energies", type=_FILE, required=True, help="Energy table of the trajectory (ancdiff score).")
@click.option("--output", type=_FILE, required=True, help="Table to write (Parquet), a row for each with an energy.")
@click.option("--seed", type=click.IntRange(min=0), required=True, help="Seed of the paths.")
def weigh(
    settings: StageConfig,
    *,
    model: Path,
    posteriors: Path,
    topology: Path,
    conformers: Path,
    energies: Path,
    output: Path,
    seed: int,
    threads: int,
) -> None:
    """Log-densities of given conformers under a model, by paths that noise them."""
    from ancdiff.weigh import run

    files = {"topology": topology, "conformers": conformers, "energies": energies, "output": output}
    run(settings, model=model, posteriors=posteriors, **files, seed=seed, threads=threads)


@stage_command("align")
@_results
@click.option("--model", required=True, help="Model to make, <objective>_round<r>, e.g. eba_round2.")
@_seed
def align(settings: StageConfig, *, results: Path, model: str, seed: int, threads: int) -> None:
    """One round of energy-based alignment; goes on from its last checkpoint."""
    from ancdiff.align import run

    check_model(model, seed, pretrained=False)
    run(settings, results=results, model=model, seed=seed, threads=threads)


@stage_command("generate")
@click.option("--model", type=_FILE, required=True, help="model.safetensors of a set of compounds, with its JSON.")
@click.option("--output", type=_FILE, required=True, help="Compounds to write (.safetensors); SDF goes beside them.")
@click.option("--seed", type=click.IntRange(min=0), required=True, help="Seed of the noise.")
@click.option("--compounds", type=click.IntRange(min=1), help="How many; overrides generate.compounds.")
@click.option("--evaluations", type=click.IntRange(min=3), help="Of the network; overrides generate.evaluations.")
def generate(
    settings: StageConfig,
    *,
    model: Path,
    output: Path,
    seed: int,
    compounds: int | None,
    evaluations: int | None,
    threads: int,
) -> None:
    """New compounds from a model, each with its own number of atoms."""
    from ancdiff.generate import run

    settings = _overridden(settings, "generate", compounds=compounds, evaluations=evaluations)
    run(settings, model=model, output=output, seed=seed, threads=threads)


@stage_command("evaluate")
@_results
def evaluate(settings: StageConfig, *, results: Path, threads: int) -> None:
    """Compare every ensemble with the reference."""
    from ancdiff.evaluate import run

    run(settings, results=results)


@stage_command("report")
@_results
def report(settings: StageConfig, *, results: Path, threads: int) -> None:
    """Write the whole run on one self-contained HTML page."""
    from ancdiff.report import run

    run(settings, results=results)


@commands.command()
@click.option("--config", type=_FILE, required=True, metavar="FILE", help="Configuration of a run (YAML).")
def check(config: Path) -> None:
    """Check a configuration and show what it amounts to."""
    resolved = load_config(config)
    check_systems(resolved)
    corridor = corridor_of(resolved)
    click.echo(f"{config} holds.\nresults  {corridor.root}/\nsystems  {len(corridor.systems)}")
    for name, system in resolved.systems.items():
        origin = describe(system)
        if system.topology is not None:
            origin += f", {len(system.training)} + {len(system.reference)} trajectories"
        click.echo(f"  {name:12s} {system.split:5s} {origin}")
    click.echo(f"models   {', '.join(corridor.models)}")
    if any(system.compounds for system in resolved.systems.values()):
        sets = ", ".join(f"{count} with {n} evaluations" for n, count in generated_sets(resolved.generate).items())
        click.echo(f"new      compounds from each model: {sets} ({resolved.generate.solver})")
        return
    conformers = resolved.sample.conformers
    click.echo(f"samples  {conformers} conformers of each system from each model ({resolved.sample.solver})")
