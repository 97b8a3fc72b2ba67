"""Where a system's data come from, and what follows from that: asked of its settings by the stages and the workflow."""

import os
from pathlib import Path

from ancdiff.config import CompoundSettings, SystemSettings
from ancdiff.exact_systems import PARTICLES
from ancdiff.provenance import PACKAGE_ROOT

BUNDLED_MD = PACKAGE_ROOT.parent / "data" / "peptides"
"""MD of the default systems, kept in the repository."""


def is_simulated(system: SystemSettings) -> bool:
    """Its data are made by the stage `simulate`; those of a topology or a set of compounds are read from files."""
    return system.topology is None and system.compounds is None


def is_particles(system: SystemSettings) -> bool:
    """Identical particles without bonds: points, or an exact system."""
    return system.points is not None or system.exact is not None


def is_scored(system: SystemSettings) -> bool:
    """It has an energy."""
    return system.points is None


def is_small_molecule(system: SystemSettings) -> bool:
    """A molecule with bond orders, all atoms: `conformers`, or own trajectories of an SDF or MOL file."""
    return system.conformers is not None or (system.topology or "").lower().endswith((".sdf", ".mol"))


def describe(system: SystemSettings) -> str:
    """The molecule in a few words."""
    if system.conformers is not None:
        return system.conformers.smiles or f"{system.conformers.file}, record {system.conformers.record}"
    if system.points is not None:
        return f"{system.points.law}, {system.points.n_points} points"
    if system.exact is not None:
        return f"{system.exact.potential}, {PARTICLES[system.exact.potential]} particles"
    if system.compounds is not None:
        return f"compounds of {system.compounds.source}"
    return system.sequence or system.topology or ""


def compound_sources(settings: CompoundSettings) -> tuple[str, ...]:
    """Files that a set of compounds is read from."""
    return (settings.source,) if settings.excluded is None else (settings.source, settings.excluded)


def own_files(system: SystemSettings) -> list[Path]:
    """Files of a system that the user hands in."""
    if system.compounds is not None:
        return [] if system.compounds.download else [Path(path) for path in compound_sources(system.compounds)]
    if system.conformers is not None:
        return [Path(system.conformers.file)] if system.conformers.file is not None else []
    topology = () if system.topology is None else (system.topology,)
    return [Path(path) for path in (*topology, *system.training, *system.reference)]


def bundled_files(system: str, md: str) -> list[Path]:
    """Files of an MD data set that the repository keeps, as seen from the working folder."""
    folder = Path(os.path.relpath(BUNDLED_MD / system))
    return [folder / "topology.pdb"] + [folder / f"{md}.{suffix}" for suffix in ("dcd", "json", "parquet")]
