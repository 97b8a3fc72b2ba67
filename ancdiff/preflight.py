"""What is looked at before a run's first job: that its systems can be worked on and its files are there."""

import importlib.util
import os
import shutil
from pathlib import Path

from ancdiff.config import Config
from ancdiff.corridor import MD_ENSEMBLES
from ancdiff.errors import ConfigError, InputError
from ancdiff.origins import bundled_files, is_scored, is_small_molecule, own_files


def check_systems(config: Config) -> None:
    """See that there is a system to train on, that every file that the run starts from is there, and what sections
    must agree on.

    Raises:
        ConfigError: there is no system, or none to train on; a trained one, or a small molecule, has no energy; the
            network cannot be translated; or a rung of the ladder is below the run's temperature.
        InputError: a file is missing.
    """
    if not config.systems:
        raise ConfigError(
            "there is no system to work on",
            where="systems",
            fix="name at least one, e.g. systems: {ala: {sequence: ACE-ALA-NME}}",
        )
    if all(system.split == "test" for system in config.systems.values()):
        raise ConfigError(
            "there is no system to train on", where="systems", fix="leave at least one with split: train (the default)"
        )
    unknown = [name for name in config.forcefield.xml if not Path(name).is_file() and not _is_openmms(name)]
    if unknown:
        raise InputError(
            f"there is no such force-field file: {', '.join(unknown)}",
            where="forcefield.xml",
            fix="check the path (relative to the folder in which snakemake runs), or the name among OpenMM's own",
        )
    small = [name for name, system in config.systems.items() if is_small_molecule(system)]
    if small and config.forcefield.small_molecule is None:
        raise ConfigError(
            f"{', '.join(small)}: no energy for small molecules is chosen",
            where="forcefield.small_molecule",
            fix="write  forcefield: {small_molecule: mmff94}  (or gfn2-xtb)",
        )
    bare = [name for name, system in config.systems.items() if system.split == "train" and not is_scored(system)]
    if bare and config.align.rounds > 0:
        raise ConfigError(
            f"{', '.join(bare)}: points have no energy to align a model with",
            where="align.rounds",
            fix="write  align: {rounds: 0},  or give these systems split: test",
        )
    lines = (config.align, *config.align.variants.values())
    if config.sample.log_density != "path" and any(line.anchor_energy == "path" for line in lines):
        raise ConfigError(
            "alignment asks for log-densities by paths, which samples do not have",
            where="align.anchor_energy: path",
            fix="write  sample: {solver: ancestral, log_density: path}",
        )
    if config.denoiser.compile:
        _check_compiling(config)
    target = config.forcefield.temperature_kelvin
    if config.align.temper is not None and any(rung < target for rung in config.align.temper.ladder_kelvin):
        raise ConfigError(
            f"the ladder goes below the temperature of the run, {target:g} K",
            where="align.temper.ladder_kelvin",
            fix="leave those rungs out: rounds after the last one are at forcefield.temperature_kelvin",
        )
    for name, system in config.systems.items():
        if system.sequence is not None and config.simulate.source == "bundled":
            _check_bundled(name)
        missing = [str(path) for path in own_files(system) if not path.is_file()]
        if missing:
            raise InputError(
                f"there is no such file: {', '.join(missing)}",
                where=f"systems.{name}",
                fix="check the path (relative to the folder in which snakemake runs)",
            )


def _check_compiling(config: Config) -> None:
    """See that the network can be translated: that it is one of molecules, and that there is a compiler."""
    asked = {"where": "denoiser.compile: true", "fix": "write  denoiser: {compile: false}"}
    sets = [name for name, system in config.systems.items() if system.compounds]
    if sets:
        raise ConfigError(f"{', '.join(sets)}: the network of sets of compounds is not translated", **asked)
    compiler = cxx_compiler()
    if shutil.which(compiler) is None:
        asked["fix"] += f",  or install {compiler}"
        raise ConfigError(f"there is no C++ compiler {compiler} to translate the network with", **asked)


def cxx_compiler() -> str:
    """Name of the compiler that PyTorch will look for."""
    return os.environ.get("CXX", "g++")


def _is_openmms(name: str) -> bool:
    """Whether OpenMM brings a force-field file of this name; does not import it."""
    found = importlib.util.find_spec("openmm")
    folders = [] if found is None else found.submodule_search_locations or []
    return any((Path(folder) / "app" / "data" / name).is_file() for folder in folders)


def _check_bundled(system: str) -> None:
    missing = [str(path) for md in MD_ENSEMBLES for path in bundled_files(system, md) if not path.is_file()]
    if missing:
        raise InputError(
            f"there is no bundled MD of this system: {', '.join(missing)}",
            where=f"systems.{system}",
            fix="set  simulate: {source: run}  to make it (minutes to hours of one core)",
        )
