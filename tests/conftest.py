"""Every test session checks the shapes and types in the package's annotations (jaxtyping with beartype)."""

import os

# Before torch and OpenMM are loaded: tests run side by side, one thread each, and numbers do not depend on the machine.
for variable in ("OMP_NUM_THREADS", "OPENMM_CPU_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("ancdiff", "beartype.beartype")
