"""OpenMM platforms, always chosen by name: left alone, OpenMM takes an OpenCL runtime that may crash the process."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ancdiff.errors import ConfigError

# Where all forces are native, the Reference platform is faster than CPU below this size (measured on two cores: one
# Langevin step takes 0.25 ms against 0.7 ms at 80 atoms, 0.81 ms against 0.95 ms at 138 atoms).
REFERENCE_ATOMS = 130
# With a CustomGBForce the Reference platform is slower than CPU from the start (0.9 ms at 22 atoms), but exact.
REFERENCE_ATOMS_CUSTOM = 16


def choose_platform(name: str, system: Any) -> Any:
    """The platform of that name; ``auto`` takes CUDA if it works, else Reference or CPU by the size of the system.

    Small systems stay on Reference even where CUDA works: a kernel launch costs more than their whole step.

    Raises:
        ConfigError: OpenMM has no such platform on this machine.
    """
    if name == "auto" and _has_python_force(system):
        name = "Reference"  # in double precision; the energy is Python's own, wherever OpenMM runs
    if name == "auto":
        name = auto_platform(system.getNumParticles(), _has_custom_solvent(system))
    return platform_by_name(name)


def auto_platform(atoms: int, custom_solvent: bool) -> str:
    """Name of the platform that suits a system of this size."""
    if atoms <= (REFERENCE_ATOMS_CUSTOM if custom_solvent else REFERENCE_ATOMS):
        return "Reference"
    return "CUDA" if cuda_works() else "CPU"


def setup_platform(atoms: int) -> str:
    """Platform for the work that is done once for a molecule: it must not depend on threads or on a GPU."""
    return "Reference" if atoms <= REFERENCE_ATOMS else "CPU"


@contextmanager
def single_threaded(platform: Any) -> Iterator[None]:
    """Contexts that others make on the CPU platform meanwhile have one thread and add up in a fixed order."""
    wanted = platform_properties(platform, 1)
    before = {name: platform.getPropertyDefaultValue(name) for name in wanted}
    try:
        for name, value in wanted.items():
            platform.setPropertyDefaultValue(name, value)
        yield
    finally:
        for name, value in before.items():
            platform.setPropertyDefaultValue(name, value)


def platform_by_name(name: str) -> Any:
    """The OpenMM platform of that name.

    Raises:
        ConfigError: OpenMM has no such platform on this machine.
    """
    import openmm

    try:
        return openmm.Platform.getPlatformByName(name)
    except openmm.OpenMMException as error:
        known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
        raise ConfigError(
            f"OpenMM has no platform '{name}' here",
            where="forcefield.platform",
            fix=f"set it to auto or one of: {', '.join(known)}",
        ) from error


def platform_properties(platform: Any, threads: int) -> dict[str, str]:
    """Properties of a Context: threads of the CPU platform, deterministic forces where the platform offers them."""
    if platform.getName() == "CPU":
        return {"Threads": str(max(1, threads)), "DeterministicForces": "true"}
    if platform.getName() in ("CUDA", "OpenCL", "HIP"):
        return {"Precision": "mixed", **({"DeterministicForces": "true"} if platform.getName() == "CUDA" else {})}
    return {}


@cache
def cuda_works() -> bool:
    """Whether a Context can be made on CUDA; an installed plug-in without a working driver cannot."""
    import openmm

    try:
        platform = openmm.Platform.getPlatformByName("CUDA")
        system = openmm.System()
        system.addParticle(1.0)
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions([(0, 0, 0)])
        context.getState(energy=True)
    except openmm.OpenMMException:
        return False
    return True


def _has_python_force(system: Any) -> bool:
    import openmm

    return any(isinstance(force, openmm.PythonForce) for force in system.getForces())


def _has_custom_solvent(system: Any) -> bool:
    import openmm

    return any(isinstance(force, openmm.CustomGBForce) for force in system.getForces())
