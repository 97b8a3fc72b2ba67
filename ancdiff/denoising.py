"""The data of a training on the training device, and the denoising loss of a batch of several systems."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.artifacts import read_ensemble
from ancdiff.config import DiffusionSettings
from ancdiff.corridor import Layout
from ancdiff.denoiser.graph import MoleculeGraph, molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.diffusion.energy import Noised, denoising_loss, training_noise
from ancdiff.diffusion.noise import TrainingLevels, centre
from ancdiff.diffusion.variance_preserving import dsm_loss, vp_noise
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


Block = tuple[MoleculeGraph, Noised]
"""Noisy conformers of one molecule, and its graph."""


def draw_blocks(
    systems: Sequence[Conformers],
    batch_size: int,
    diffusion: DiffusionSettings,
    *,
    sigma_data_nm: float,
    generator: torch.Generator,
) -> list[Block]:
    """A batch from all systems, under training noise; a system's share is that of its atoms. Draws from ``generator``.

    A larger molecule has more to learn from each of its conformers, and more torsions to have seen.
    """
    blocks = []
    for system, share in zip(systems, shares([s.graph for s in systems], batch_size), strict=True):
        index = torch.randint(len(system.positions_nm), (share,), generator=generator, device=generator.device)
        blocks.append(noisy_block(system.graph, system.positions_nm[index], diffusion, sigma_data_nm, generator))
    return blocks


def shares(graphs: Sequence[MoleculeGraph], batch_size: int) -> list[int]:
    """How many conformers of each molecule are in a batch: in proportion to their atoms, and at least one."""
    atoms = sum(graph.n_atoms for graph in graphs)
    return [max(1, round(batch_size * graph.n_atoms / atoms)) for graph in graphs]


def noisy_block(
    graph: MoleculeGraph,
    positions_nm: Float[Tensor, "conformers atoms 3"],
    diffusion: DiffusionSettings,
    sigma_data_nm: float,
    generator: torch.Generator,
) -> Block:
    """Conformers of one molecule under training noise of the process. Draws from ``generator``."""
    if diffusion.process == "vp":
        return graph, vp_noise(positions_nm, diffusion, sigma_data_nm=sigma_data_nm, generator=generator)
    levels = training_levels(diffusion, sigma_data_nm)
    return graph, training_noise(positions_nm, levels, superpose=diffusion.superpose, generator=generator)


def training_levels(diffusion: DiffusionSettings, sigma_data_nm: float) -> TrainingLevels:
    """The settings' noise levels, which are in units of the data's spread, in nm."""
    return TrainingLevels(
        sigma_min_nm=diffusion.sigma_min * sigma_data_nm,
        sigma_max_nm=diffusion.sigma_max * sigma_data_nm,
        median_nm=diffusion.training_median * sigma_data_nm,
        log_width=diffusion.training_log_width,
        uniform_share=diffusion.training_uniform_share,
    )


def split_blocks(blocks: Sequence[Block], parts: int) -> list[list[Block]]:
    """The same conformers in ``parts`` batches of equal work: every part has its share of every block."""
    split: list[list[Block]] = [[] for _ in range(parts)]
    for graph, batch in blocks:
        # A block smaller than the number of parts goes to the first ones; the others do without it.
        for part, pieces in zip(split, batch.chunk(parts), strict=False):
            part.append((graph, pieces))
    return [part for part in split if part]


def denoising_blocks_loss(
    denoiser: Denoiser,
    blocks: Sequence[Block],
    diffusion: DiffusionSettings | None = None,
    *,
    conformers: int | None = None,
) -> Float[Tensor, ""]:
    """The process's loss of the blocks (EDM's by default, or denoising score matching), summed over conformers.

    It is divided by ``conformers`` (default: how many there are).
    """
    denoised = denoiser.blocks(
        [graph for graph, _ in blocks], [b.noisy_nm for _, b in blocks], [b.sigma_nm for _, b in blocks]
    )
    loss = denoising_loss
    if diffusion is not None and diffusion.process == "vp":
        loss = partial(dsm_loss, diffusion=diffusion)
    losses = [
        loss(batch, clean, sigma_data_nm=denoiser.sigma_data_nm)
        for (_, batch), clean in zip(blocks, denoised, strict=True)
    ]
    return torch.cat(losses).sum() / (conformers or sum(len(loss) for loss in losses))
