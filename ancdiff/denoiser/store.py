"""Denoisers on disk: weights as safetensors, what they are and what made them as JSON beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ancdiff.artifacts import read_json, write_atomically, write_json
from ancdiff.config import DenoiserSettings
from ancdiff.denoiser.network import Denoiser
from ancdiff.errors import InputError


def save_denoiser(path: Path, denoiser: Denoiser, made_by: Mapping[str, Any]) -> None:
    """Write ``model.json`` and then the weights: where the weights are, the model is whole."""
    record = {
        "denoiser": denoiser.settings.model_dump(),
        "sigma_data_nm": denoiser.sigma_data_nm,
        "made_by": dict(made_by),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in denoiser.state_dict().items()}
    write_json(path.with_suffix(".json"), record)
    write_atomically(path, lambda temporary: save_file(weights, temporary))


def load_denoiser(path: Path) -> tuple[Denoiser, dict[str, Any]]:
    """A denoiser, ready to sample, and its record.

    Raises:
        InputError: a file is missing or damaged, or the weights are those of another network.
    """
    record = read_json(path.with_suffix(".json"))
    if not path.is_file():
        raise InputError(
            "there is no such model", where=str(path), fix="run the stage that makes it (pretrain or align)"
        )
    denoiser = Denoiser(DenoiserSettings(**record["denoiser"]), sigma_data_nm=record["sigma_data_nm"])
    try:
        denoiser.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise their own kinds
        raise InputError(
            f"these weights cannot be loaded: {error}",
            where=str(path),
            fix="delete the model and run its stage again; it was made by another version of the network",
        ) from error
    denoiser.requires_grad_(False)
    return denoiser.eval(), record


def choose_device() -> torch.device:
    """The GPU where torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
