"""Checks of systems of particles: as many as the configuration says, and all alike."""

from ancdiff.config import SystemSettings
from ancdiff.dataset.frames import MdFrames
from ancdiff.errors import InputError
from ancdiff.origins import describe
from ancdiff.particles import molecule_of_settings


def check_particles(frames: MdFrames, system: SystemSettings) -> MdFrames:
    """The same frames, of the particles that the configuration says.

    Raises:
        InputError: there are more or fewer of them, or of another kind.
    """
    wanted, found = molecule_of_settings(frames.molecule.name, system), frames.molecule
    if (wanted.n_atoms, wanted.elements) != (found.n_atoms, found.elements) or len(found.bonds):
        raise InputError(
            f"system {wanted.name} is {describe(system)} in the configuration, but its data have {found.n_atoms} "
            f"particles ({', '.join(sorted(set(found.elements)))}) and {len(found.bonds)} bonds",
            where=str(frames.files[1]),
            fix=f"make them again: ancdiff simulate --system {wanted.name} --md training (and reference)",
        )
    return frames
