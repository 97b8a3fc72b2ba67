"""Systems of identical particles: clouds of points from a law, and systems with an exact energy.

A system of particles is a `Molecule` like any other: N atoms of one kind in one residue, without bonds or
stereocentres, so that the network is told the same of each and swapping two particles swaps its output.

Units: the library's stay nm, kJ/mol and K. In reduced units one length is ``length_nm`` of the system's settings, and
one energy is `REDUCED_ENERGY_KJ_MOL` = R · 300 K, so that kT = 1 at 300 K and βE is the literature's energy there.
"""

import numpy as np

from ancdiff.config import SystemSettings
from ancdiff.exact_systems import PARTICLES
from ancdiff.molecules import Molecule
from ancdiff.units import thermal_energy_kj_mol

REDUCED_KELVIN = 300.0
"""Temperature at which kT is one reduced energy."""
REDUCED_ENERGY_KJ_MOL = thermal_energy_kj_mol(REDUCED_KELVIN)

RESIDUE = "PTS"
# The element tells the network which law or potential it looks at, where one model learns several; all are in the
# network's vocabulary but argon, which is its 'other'. It has no chemical meaning.
_ELEMENTS = {
    **{"mixture": "C", "sphere": "N", "helix": "O", "torus": "S"},
    **{"double_well": "F", "dw4": "Cl", "lj13": "Ar", "lj55": "P"},
}


def particle_molecule(name: str, kind: str, n_particles: int) -> Molecule:
    """N identical particles of a law or potential, without bonds."""
    return Molecule(
        name=name,
        # Readers of PDB files want names that differ; none is a name that the network knows, so to it all are alike.
        atom_names=tuple(f"P{i + 1}" for i in range(n_particles)),
        elements=(_ELEMENTS[kind],) * n_particles,
        residue_names=(RESIDUE,),
        residue_of_atom=np.zeros(n_particles, dtype=np.int64),
        bonds=np.zeros((0, 2), dtype=np.int64),
    )


def molecule_of_settings(name: str, settings: SystemSettings) -> Molecule:
    """The particles of a system's settings; `ValueError` where the system is not one of particles."""
    if settings.points is not None:
        return particle_molecule(name, settings.points.law, settings.points.n_points)
    if settings.exact is not None:
        return particle_molecule(name, settings.exact.potential, PARTICLES[settings.exact.potential])
    raise ValueError(f"{name} is not a system of particles")
