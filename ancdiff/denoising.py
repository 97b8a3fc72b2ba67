"""The data of a training on the training device, and the denoising loss of a batch of several systems."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.artifacts import read_ensemble
from ancdiff.config import DiffusionSettings
from ancdiff.corridor import Layout
from ancdiff.denoiser.graph import MoleculeGraph, molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.diffusion.energy import denoising_loss
from ancdiff.diffusion.noise import centre
from ancdiff.errors import StageError


@dataclass(frozen=True, eq=False)
class Conformers:
    """Centred conformers of one system and its graph, on the training device."""

    system: str
    graph: MoleculeGraph
    positions_nm: Float[Tensor, "conformers atoms 3"]


def load_conformers(layout: Layout, system: str, split: pd.DataFrame, part: str, device: torch.device) -> Conformers:
    """The training-MD frames of one system that belong to a part of the split."""
    ensemble = read_ensemble(layout.ensemble("training", system))
    rows = split[(split["system"] == system) & (split["md"] == "training") & (split["split"] == part)]
    positions = torch.as_tensor(ensemble.positions_nm[rows["frame"].to_numpy()])
    if len(positions) == 0:
        raise StageError(f"no frame of {system} is in the part '{part}' of the split", where="dataset/split.parquet")
    return Conformers(system, molecule_graph(ensemble.molecule).to(device), centre(positions).to(device))


def denoising_batch_loss(
    denoiser: Denoiser,
    systems: Sequence[Conformers],
    batch_size: int,
    diffusion: DiffusionSettings,
    generator: torch.Generator,
) -> Tensor:
    """EDM loss of a batch with an equal share of every system; each share is one dense block, so nothing is padded."""
    share = max(1, batch_size // len(systems))
    blocks = []
    for system in systems:
        index = torch.randint(len(system.positions_nm), (share,), generator=generator, device=generator.device)
        blocks.append((system.graph, system.positions_nm[index]))
    return denoising_blocks_loss(denoiser, blocks, diffusion, generator)


def denoising_blocks_loss(
    denoiser: Denoiser,
    blocks: Sequence[tuple[MoleculeGraph, Float[Tensor, "conformers atoms 3"]]],
    diffusion: DiffusionSettings,
    generator: torch.Generator,
) -> Tensor:
    """Mean over blocks of the EDM loss of each block's conformers. Draws noise from ``generator``."""
    losses = [
        denoising_loss(
            denoiser.on(graph),
            positions_nm,
            sigma_data_nm=denoiser.sigma_data_nm,
            median_nm=diffusion.training_median * denoiser.sigma_data_nm,
            log_width=diffusion.training_log_width,
            superpose=diffusion.superpose,
            generator=generator,
        ).mean()
        for graph, positions_nm in blocks
    ]
    return torch.stack(losses).mean()
