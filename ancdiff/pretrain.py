"""Pretraining: supervised denoising of the training MD, one model for all systems."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff.artifacts import read_ensemble, read_table, write_table
from ancdiff.config import DiffusionSettings, PretrainSettings, StageConfig
from ancdiff.corridor import PRETRAINED, Layout
from ancdiff.denoiser.graph import MoleculeGraph, molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoiser.store import choose_device, save_denoiser
from ancdiff.diffusion.energy import denoising_loss
from ancdiff.diffusion.noise import centre
from ancdiff.errors import StageError
from ancdiff.provenance import made_by
from ancdiff.training import TrainingPlan, train


@dataclass(frozen=True, eq=False)
class Conformers:
    """Centred conformers of one system and its graph, on the training device."""

    system: str
    graph: MoleculeGraph
    positions_nm: Float[Tensor, "conformers atoms 3"]


def run(settings: StageConfig, *, results: Path, threads: int) -> None:
    """Train a denoiser on the frames that the split calls 'train' and write it under ``results/pretrain``.

    Raises:
        StageError: no system is for training, or the loss became non-finite.
    """
    torch.set_num_threads(threads)
    layout = Layout(results)
    device = choose_device()
    systems = [name for name, system in settings.systems.items() if system.split == "train"]
    if not systems:
        raise StageError("there is no system to train on", where="systems", fix="give at least one system split: train")
    split = read_table(results / "dataset" / "split.parquet")
    training = [load_conformers(layout, name, split, "train", device) for name in systems]
    validation = [load_conformers(layout, name, split, "validation", device) for name in systems]

    seed = settings.run.seed
    parents = [layout.ensemble("training", name) for name in systems]
    record = made_by("pretrain", settings=settings.as_dict(), seed=seed, parents=parents)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's initialisers know no other source
        model = Denoiser(settings.denoiser, sigma_data_nm=data_spread_nm(training)).to(device)
    work = results / "pretrain" / ".work" / work_key(record)
    ema, metrics = train(
        model,
        lambda denoiser, generator: (
            denoising_batch_loss(denoiser, training, settings.pretrain.batch_size, settings.diffusion, generator),
            {},
        ),
        _plan(settings.pretrain),
        generator=torch.Generator(device).manual_seed(seed),
        work=work,
        title="pretrain",
        validate=lambda denoiser: _validation_loss(denoiser, validation, settings),
        validate_every_steps=settings.pretrain.validate_every_steps,
    )
    write_table(results / "pretrain" / "metrics.parquet", metrics)
    save_denoiser(layout.model(PRETRAINED), ema, record)
    shutil.rmtree(work)


def load_conformers(
    layout: Layout, system: str, split: pd.DataFrame, part: str, device: torch.device
) -> Conformers:
    """The training-MD frames of one system that belong to a part of the split."""
    ensemble = read_ensemble(layout.ensemble("training", system))
    rows = split[(split["system"] == system) & (split["md"] == "training") & (split["split"] == part)]
    positions = torch.as_tensor(ensemble.positions_nm[rows["frame"].to_numpy()])
    if len(positions) == 0:
        raise StageError(f"no frame of {system} is in the part '{part}' of the split", where="dataset/split.parquet")
    return Conformers(system, molecule_graph(ensemble.molecule).to(device), centre(positions).to(device))


def data_spread_nm(systems: Sequence[Conformers]) -> float:
    """σ_data: root mean square of a coordinate about the centroid, averaged over systems, nm."""
    variances = [s.positions_nm.square().sum(dim=(-1, -2)).mean() / (3 * (s.graph.n_atoms - 1)) for s in systems]
    return float(torch.stack(variances).mean().sqrt())


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


def work_key(record: Mapping[str, Any]) -> str:
    """Name of a work folder: a hash of the settings, code, seed and parents that a training belongs to."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def _plan(settings: PretrainSettings) -> TrainingPlan:
    return TrainingPlan(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        gradient_clip=settings.gradient_clip,
        ema_halflife_steps=settings.ema_halflife_steps,
        checkpoint_every_seconds=settings.checkpoint_every_seconds,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
    )


@torch.no_grad()
def _validation_loss(denoiser: Denoiser, validation: Sequence[Conformers], settings: StageConfig) -> float:
    """Denoising loss on held-out frames, with the same noise each time."""
    generator = torch.Generator(validation[0].positions_nm.device).manual_seed(settings.run.seed + 1)
    loss = denoising_batch_loss(denoiser, validation, 64 * len(validation), settings.diffusion, generator)
    return float(loss)
