"""Denoisers on disk: weights as safetensors, what they are and what made them as JSON beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ancdiff.artifacts import read_json, write_atomically, write_json
from ancdiff.config import DenoiserSettings
from ancdiff.denoiser.compounds import CompoundDenoiser
from ancdiff.denoiser.network import Denoiser
from ancdiff.errors import InputError

Network = TypeVar("Network", bound=nn.Module)


def save_denoiser(path: Path, denoiser: Denoiser, made_by: Mapping[str, Any]) -> None:
    """Write ``model.json`` and then the weights: where the weights are, the model is whole."""
    record = {
        "denoiser": denoiser.settings.model_dump(),
        "sigma_data_nm": denoiser.sigma_data_nm,
        "chemistry": denoiser.chemistry,
    }
    _save(path, denoiser, record | {"made_by": dict(made_by)})


def load_denoiser(path: Path) -> tuple[Denoiser, dict[str, Any]]:
    """A denoiser, ready to sample, and its record.

    Raises:
        InputError: a file is missing or damaged, or the weights are those of another network.
    """
    record = _record(path, of_compounds=False)
    denoiser = Denoiser(
        DenoiserSettings(**record["denoiser"]),
        sigma_data_nm=record["sigma_data_nm"],
        chemistry=record.get("chemistry", False),  # models of before there was any say nothing of it
    )
    return _with_weights(denoiser, path), record


def save_compound_denoiser(
    path: Path, denoiser: CompoundDenoiser, sizes: Mapping[int, int], made_by: Mapping[str, Any]
) -> None:
    """As `save_denoiser`; ``sizes`` says how many compounds of each number of atoms it has learned from."""
    record = {
        "denoiser": denoiser.settings.model_dump(),
        "sigma_data_nm": denoiser.sigma_data_nm,
        "frequencies": list(denoiser.frequencies),
        "sizes": {str(size): count for size, count in sizes.items()},
    }
    _save(path, denoiser, record | {"made_by": dict(made_by)})


def load_compound_denoiser(path: Path) -> tuple[CompoundDenoiser, dict[str, Any]]:
    """A denoiser of compounds, ready to generate, and its record, sizes as integers.

    Raises:
        InputError: as `load_denoiser`.
    """
    record = _record(path, of_compounds=True)
    denoiser = CompoundDenoiser(
        DenoiserSettings(**record["denoiser"]),
        sigma_data_nm=record["sigma_data_nm"],
        frequencies=record["frequencies"],
    )
    sizes = {int(size): int(count) for size, count in record["sizes"].items()}
    return _with_weights(denoiser, path), record | {"sizes": sizes}


def _save(path: Path, denoiser: nn.Module, record: Mapping[str, Any]) -> None:
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in denoiser.state_dict().items()}
    write_json(path.with_suffix(".json"), record)
    write_atomically(path, lambda temporary: save_file(weights, temporary))


def _record(path: Path, *, of_compounds: bool) -> dict[str, Any]:
    record = read_json(path.with_suffix(".json"))
    if not path.is_file():
        raise InputError(
            "there is no such model", where=str(path), fix="run the stage that makes it (pretrain or align)"
        )
    if ("sizes" in record) != of_compounds:
        other = "ancdiff generate" if "sizes" in record else "ancdiff sample"
        raise InputError("this model is of the other kind", where=str(path), fix=f"use it with: {other}")
    return record


def _with_weights(denoiser: Network, path: Path) -> Network:
    try:
        denoiser.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise their own kinds
        raise InputError(
            f"these weights cannot be loaded: {error}",
            where=str(path),
            fix="delete the model and run its stage again; it was made by another version of the network",
        ) from error
    denoiser.requires_grad_(False)
    return denoiser.eval()


def choose_device() -> torch.device:
    """The GPU where torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
