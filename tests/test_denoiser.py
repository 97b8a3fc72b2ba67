"""The network: equivariant under rotations and shifts, not under reflections; stores and loads without loss."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ancdiff.config import DenoiserSettings
from ancdiff.denoiser.graph import MoleculeGraph, molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoiser.store import load_denoiser, save_denoiser
from ancdiff.diffusion.noise import centre
from ancdiff.errors import InputError
from ancdiff.preflight import cxx_compiler
from ancdiff.testing import alanine_dipeptide, assert_equivariant, mirror_error

SETTINGS = DenoiserSettings(features=32, pair_features=16, layers=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_denoiser(dtype: torch.dtype = torch.float64) -> tuple[Denoiser, MoleculeGraph, Tensor]:
    """An untrained denoiser, its graph, and noisy conformers at several noise levels."""
    torch.manual_seed(0)
    ensemble = alanine_dipeptide()
    denoiser = Denoiser(SETTINGS, sigma_data_nm=0.15).to(dtype).requires_grad_(False)
    graph = molecule_graph(ensemble.molecule).to(dtype)
    clean = torch.as_tensor(ensemble.positions_nm, dtype=dtype)
    noise = torch.randn(6, *clean.shape[1:], generator=seeded(), dtype=dtype)
    return denoiser, graph, centre(clean + torch.logspace(-3, 0, 6, dtype=dtype)[:, None, None] * noise)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equivariant_under_rotations_and_shifts(dtype: torch.dtype, tolerance: float) -> None:
    denoiser, graph, x = make_denoiser(dtype)
    sigma = torch.logspace(-3, 0, 6, dtype=dtype)
    # Shifts of about 1 nm cost float32 a rounding of 1e-7 relative to coordinates of 0.1 nm.
    assert_equivariant(lambda y: denoiser.on(graph)(y, sigma), x, tolerance=tolerance, generator=seeded(1))


def test_not_equivariant_under_reflections() -> None:
    denoiser, graph, x = make_denoiser()
    assert mirror_error(lambda y: denoiser.on(graph)(y, torch.full((6,), 0.1).double()), x) > 1e-3


def test_without_chiral_features_it_cannot_tell_a_mirror_image() -> None:
    """With torsions, volumes and cross products off, the network is O(3)-equivariant, and the check sees it."""
    denoiser, graph, x = make_denoiser()
    none = {name: getattr(graph, name)[:0] for name in ("torsions", "torsion_pair", "stereocentres")}
    blind = MoleculeGraph(**{**graph.__dict__, **none})
    for layer in denoiser.network.layers:
        layer.update[-1].weight[-4:] = 0.0  # the gates of the cross products
        layer.update[-1].bias[-4:] = 0.0
        layer.update[0].weight[:, -4:] = 0.0  # triple products
    assert mirror_error(lambda y: denoiser.on(blind)(y, torch.full((6,), 0.1).double()), x) < 1e-12


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda y: y * torch.tensor([1.0, 1.0, 1.001]), id="anisotropic"),
        pytest.param(lambda y: centre(y) + 1e-3, id="a fixed direction"),
        pytest.param(lambda y: y, id="not centred"),
        pytest.param(lambda y: centre(y).abs(), id="absolute values"),
    ],
)
def test_the_checker_fails_on_broken_functions(broken) -> None:
    x = torch.randn(3, 5, 3, generator=seeded(), dtype=torch.float64)
    with pytest.raises(AssertionError, match="not SE\\(3\\)-equivariant"):
        assert_equivariant(broken, x, tolerance=1e-6, generator=seeded(1))


def test_the_checker_passes_an_equivariant_function() -> None:
    x = torch.randn(3, 5, 3, generator=seeded(), dtype=torch.float64)
    assert_equivariant(lambda y: centre(y) ** 1 * 2.0, x, tolerance=1e-12, generator=seeded(1))


def test_at_no_noise_the_input_comes_back() -> None:
    denoiser, graph, x = make_denoiser()
    assert (denoiser.on(graph)(x, torch.full((6,), 1e-9).double()) - x).abs().max() < 1e-6


def test_output_is_centred() -> None:
    denoiser, graph, x = make_denoiser()
    assert denoiser.on(graph)(x + 3.0, torch.full((6,), 0.3).double()).mean(dim=1).abs().max() < 1e-12


def test_stored_denoiser_comes_back(tmp_path: Path) -> None:
    denoiser, graph, x = make_denoiser(torch.float32)
    path = tmp_path / "model.safetensors"
    save_denoiser(path, denoiser, {"stage": "test"})
    loaded, record = load_denoiser(path)
    sigma = torch.full((6,), 0.2)
    assert torch.equal(loaded.on(graph)(x, sigma), denoiser.on(graph)(x, sigma))
    assert record["made_by"] == {"stage": "test"}


@pytest.mark.parametrize("damage", ["truncated", "missing", "other network"])
def test_damaged_models_are_named(tmp_path: Path, damage: str) -> None:
    denoiser, _, _ = make_denoiser(torch.float32)
    path = tmp_path / "model.safetensors"
    save_denoiser(path, denoiser, {})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "missing":
        path.unlink()
    else:
        record = path.with_suffix(".json")
        record.write_text(record.read_text().replace('"layers": 2', '"layers": 3'))
    with pytest.raises(InputError, match=r"model|weights"):
        load_denoiser(path)


def test_molecules_side_by_side_do_not_see_each_other() -> None:
    """One pass for several conformers of two molecules gives what each conformer gives alone."""
    denoiser, graph, x = make_denoiser()
    torch.manual_seed(1)
    pair = another_molecule(graph)
    sigma = torch.logspace(-2, 0, 6, dtype=torch.float64)
    together = denoiser.blocks([graph, pair], [x[:4], x[4:]], [sigma[:4], sigma[4:]])
    for i in range(6):
        block, row = (0, i) if i < 4 else (1, i - 4)
        alone = denoiser.on((graph, pair)[block])(x[i : i + 1], sigma[i : i + 1])
        torch.testing.assert_close(together[block][row], alone[0], rtol=1e-12, atol=1e-14)


def another_molecule(graph: MoleculeGraph) -> MoleculeGraph:
    """The same atoms as another molecule: other types, no stereocentre, fewer torsions."""
    other = {
        "atom_type": graph.atom_type.flip(0),
        "torsions": graph.torsions[:3],
        "torsion_pair": graph.torsion_pair[:3],
        "stereocentres": graph.stereocentres[:0],
    }
    return MoleculeGraph(**{**graph.__dict__, **other})


_COMPILED = """
from copy import deepcopy

import torch

from ancdiff.config import DenoiserSettings
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.testing import alanine_dipeptide

torch.set_num_threads(1)
ensemble = alanine_dipeptide()
graph = molecule_graph(ensemble.molecule)
clean = torch.as_tensor(ensemble.positions_nm)[0]
plain = Denoiser(DenoiserSettings(features=16, pair_features=8, layers=1, compile=True), sigma_data_nm=0.15)
compiled = deepcopy(plain)
compiled.compile_layers()


def results(denoiser, conformers):
    x = clean + 0.02 * torch.randn(conformers, *clean.shape, generator=torch.Generator().manual_seed(1))
    found = denoiser.on(graph)(x, torch.linspace(0.01, 0.1, conformers))
    given = torch.autograd.grad(found.square().sum(), list(denoiser.parameters()), allow_unused=True)
    return [found.detach(), *given]


results(compiled, 5)
torch.compiler.set_stance("fail_on_recompile")  # one program for any number of conformers
for conformers in (5, 7):
    for one, other in zip(results(plain, conformers), results(compiled, conformers), strict=True):
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()) + 1e-7)
"""


@pytest.mark.skipif(shutil.which(cxx_compiler()) is None, reason="there is no C++ compiler here")
def test_compiled_layers_say_the_same_whatever_the_number_of_conformers(tmp_path: Path) -> None:
    # A process of its own: the checks of shapes and types that tests add cannot be translated.
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", _COMPILED], capture_output=True, text=True, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert list(tmp_path.rglob("*.so")), "nothing was compiled"
