"""What the denoiser is told of small molecules and does with it: bond orders, equivalent atoms, stereocentres."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from made_molecules import embedded

from ancdiff.artifacts import read_json
from ancdiff.chemistry import graph_of_molecule
from ancdiff.config import DenoiserSettings
from ancdiff.dataset.features import CHEMISTRY, PAIR_KINDS, molecule_features
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoiser.store import load_denoiser, save_denoiser
from ancdiff.molecules import signed_volumes
from ancdiff.testing import assert_equivariant, mirror_error


def words(smiles: str) -> tuple[list[tuple[str, ...]], np.ndarray]:
    features = molecule_features(embedded(smiles)[0])
    vocabularies = list(CHEMISTRY.values())
    atoms = [tuple(v[i] for v, i in zip(vocabularies, row, strict=True)) for row in features.chemistry]
    return atoms, np.array(PAIR_KINDS)[features.pair_kind]


def test_the_chemistry_of_known_molecules() -> None:
    atoms, kinds = words("c1ccncc1C[NH3+]")
    assert atoms[3] == ("0", "SP2", "True", "6")
    assert atoms[6] == ("0", "SP3", "False", "0")
    assert atoms[7] == ("1", "SP3", "False", "0")
    assert (kinds[2, 3], kinds[5, 6], kinds[0, 3]) == ("aromatic", "single", "apart")
    _, kinds = words("CC(=O)N")
    assert (kinds[0, 1], kinds[1, 2], kinds[1, 3]) == ("single", "double", "conjugated")
    np.testing.assert_array_equal(kinds, kinds.T)
    for smiles, kind in (("C/C=C\\C", "cis"), ("C/C=C/C", "trans")):
        assert words(smiles)[1][0, 3] == kind


def test_a_model_without_chemistry_does_not_see_it_and_one_with_it_does(tmp_path: Path) -> None:
    (cis, positions_nm), (trans, _) = embedded("C/C=C\\C"), embedded("C/C=C/C")
    x = torch.as_tensor(positions_nm, dtype=torch.float32)
    sigma = torch.full((1,), 0.1)
    settings = DenoiserSettings(features=16, pair_features=8, layers=2)
    torch.manual_seed(3)
    plain = Denoiser(settings, sigma_data_nm=0.15).requires_grad_(False)
    torch.manual_seed(3)
    told = Denoiser(settings, sigma_data_nm=0.15, chemistry=True).requires_grad_(False)
    assert set(plain.state_dict()) < set(told.state_dict())
    assert not [name for name in plain.state_dict() if "kinds" in name or "chemistry" in name]
    outputs = [[d.on(molecule_graph(m))(x, sigma) for m in (cis, trans)] for d in (plain, told)]
    assert torch.equal(*outputs[0])
    assert (outputs[1][0] - outputs[1][1]).abs().max() > 1e-6
    # A record of before there was any chemistry says nothing of it, and its model loads as it was.
    save_denoiser(tmp_path / "model.safetensors", plain, {})
    record = read_json(tmp_path / "model.json")
    del record["chemistry"]
    (tmp_path / "model.json").write_text(json.dumps(record))
    assert torch.equal(
        load_denoiser(tmp_path / "model.safetensors")[0].on(molecule_graph(cis))(x, sigma), outputs[0][0]
    )
    save_denoiser(tmp_path / "model.safetensors", told, {})
    assert torch.equal(
        load_denoiser(tmp_path / "model.safetensors")[0].on(molecule_graph(cis))(x, sigma), outputs[1][0]
    )


def test_equivalent_atoms_are_treated_alike_and_rotations_turn_the_output() -> None:
    molecule, positions_nm = embedded("CC(C)(C)O")
    torch.manual_seed(1)
    settings = DenoiserSettings(features=16, pair_features=8, layers=2)
    denoiser = Denoiser(settings, sigma_data_nm=0.15, chemistry=True).double().requires_grad_(False)
    denoise = denoiser.on(molecule_graph(molecule).to(torch.float64))
    x, sigma = torch.as_tensor(positions_nm), torch.full((1,), 0.05).double()
    assert_equivariant(lambda y: denoise(y, sigma), x, tolerance=1e-12, generator=torch.Generator().manual_seed(1))
    graph = graph_of_molecule(molecule)
    swaps = graph.GetSubstructMatches(graph, uniquify=False, maxMatches=2000)
    order = torch.tensor(next(swap for swap in swaps if swap[0] != 0))
    np.testing.assert_allclose(denoise(x[:, order], sigma), denoise(x, sigma)[:, order], atol=1e-12)


def test_a_stereocentre_is_turned_along_its_neighbours_normal() -> None:
    """Where p < 0 is all that is left of a layer, the centre goes to the right side, whichever hand it has."""
    molecule, positions_nm = embedded("CC[C@H](C)O")
    torch.manual_seed(1)
    settings = DenoiserSettings(features=16, pair_features=8, layers=1)
    denoiser = Denoiser(settings, sigma_data_nm=0.15, chemistry=True).double().requires_grad_(False)
    graph, sigma = molecule_graph(molecule).to(torch.float64), torch.full((1,), 0.1).double()
    x = torch.as_tensor(positions_nm)
    assert_equivariant(
        lambda y: denoiser.on(graph)(y, sigma), x, tolerance=1e-12, generator=torch.Generator().manual_seed(1)
    )
    assert mirror_error(lambda y: denoiser.on(graph)(y, sigma), x) > 1e-3
    (layer,) = denoiser.network.layers
    for parameter in denoiser.network.parameters():
        parameter.zero_()
    layer.turn.bias[0] = -1.0
    without = molecule_graph(replace(molecule, stereocentres=molecule.stereocentres[:0])).to(torch.float64)
    for hand in (x, x * torch.tensor([1.0, 1.0, -1.0])):
        still, turned = (denoiser.on(one)(hand, sigma).numpy() for one in (without, graph))
        risen = signed_volumes(turned, molecule.stereocentres) - signed_volumes(still, molecule.stereocentres)
        assert (risen > 1e-4).all()  # nm³; a tetrahedral centre has about 0.002
