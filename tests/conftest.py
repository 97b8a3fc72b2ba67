"""Every test session checks the shapes and types in the package's annotations (jaxtyping with beartype)."""

import os
from pathlib import Path

import pytest

# Before torch and OpenMM are loaded: tests run side by side, one thread each, and numbers do not depend on the machine.
for variable in ("OMP_NUM_THREADS", "OPENMM_CPU_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("ancdiff", "beartype.beartype")


@pytest.fixture
def test_data() -> Path:
    """Folder of real data outside the repository (``ANCDIFF_TEST_DATA``); skips where it is absent."""
    folder = Path(os.environ.get("ANCDIFF_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data are not here; ANCDIFF_TEST_DATA names their folder")
    return folder
