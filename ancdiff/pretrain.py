"""Pretraining: supervised denoising of the training MD, one model for all systems."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ancdiff import compound_denoising
from ancdiff.artifacts import read_table, write_table
from ancdiff.compound_files import read_compounds
from ancdiff.config import DiffusionSettings, PretrainSettings, StageConfig
from ancdiff.corridor import PRETRAINED, Layout
from ancdiff.denoiser.compounds import CompoundDenoiser
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoiser.store import choose_device, save_compound_denoiser, save_denoiser
from ancdiff.denoising import Block, Conformers, denoising_blocks_loss, draw_blocks, load_conformers, split_blocks
from ancdiff.errors import StageError
from ancdiff.provenance import made_by
from ancdiff.training import LossPart, TrainingPlan, train, work_key


def run(settings: StageConfig, *, results: Path, model: str = PRETRAINED, seed: int, threads: int) -> None:
    """Train a denoiser on the frames that the split calls 'train' and write it under ``results/pretrain``.

    Draws from ``seed`` alone.

    Raises:
        StageError: no system is for training, or the loss became non-finite.
    """
    if any(system.compounds for system in settings.systems.values()):
        return _learn_compounds(settings, results=results, model=model, seed=seed, threads=threads)
    layout = Layout(results)
    device = choose_device()
    # On the CPU each thread takes a part of the batch, not a part of every operation.
    torch.set_num_threads(1)
    parts = threads if device.type == "cpu" else 1
    systems = [name for name, system in settings.systems.items() if system.split == "train"]
    if not systems:
        raise StageError("there is no system to train on", where="systems", fix="give at least one system split: train")
    split = read_table(results / "dataset" / "split.parquet")
    training = [load_conformers(layout, name, split, "train", device) for name in systems]
    # A rigid molecule may have a single conformer, which is for training.
    validated = set(split.loc[split["split"] == "validation", "system"]) or set(systems)
    validation = [load_conformers(layout, name, split, "validation", device) for name in systems if name in validated]

    parents = [layout.ensemble("training", name) for name in systems]
    record = made_by("pretrain", settings=settings.as_dict(), seed=seed, parents=parents)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's initialisers know no other source
        chemistry = any(bool(conformers.graph.pair_kind.any()) for conformers in training)
        spread_nm = data_spread_nm(training)
        denoiser = Denoiser(settings.denoiser, sigma_data_nm=spread_nm, chemistry=chemistry).to(device)
    denoiser.compile_layers()
    folder = layout.model(model).parent
    work = folder / ".work" / work_key(record)
    ema, metrics = train(
        denoiser,
        lambda generator: _loss_parts(training, settings, denoiser.sigma_data_nm, generator, parts),
        _plan(settings.pretrain),
        generator=torch.Generator(device).manual_seed(seed),
        work=work,
        title=model,
        validate=lambda denoiser: _validation_loss(denoiser, validation, settings, seed),
        validate_every_steps=settings.pretrain.validate_every_steps,
    )
    write_table(folder / "metrics.parquet", metrics)
    save_denoiser(layout.model(model), ema, record)
    shutil.rmtree(work)
    return None


def _learn_compounds(settings: StageConfig, *, results: Path, model: str, seed: int, threads: int) -> None:
    """As `run`, for a set of compounds: positions and atom types, no graph."""
    layout = Layout(results)
    device = choose_device()
    torch.set_num_threads(1)
    parts = threads if device.type == "cpu" else 1
    (system,) = settings.systems
    paths = {part: layout.part(part, system) for part in ("train", "validation")}
    sets = {part: read_compounds(path) for part, path in paths.items()}
    training, validation = (compound_denoising.load_data(sets[part], device) for part in paths)

    record = made_by("pretrain", settings=settings.as_dict(), seed=seed, parents=paths.values())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = CompoundDenoiser(
            settings.denoiser,
            sigma_data_nm=compound_denoising.spread_nm(sets["train"]),
            frequencies=compound_denoising.type_frequencies(sets["train"]),
        ).to(device)
    folder = layout.model(model).parent
    work = folder / ".work" / work_key(record)
    ema, metrics = train(
        denoiser,
        lambda generator: compound_denoising.batch_parts(
            denoiser, training, settings.pretrain, settings.diffusion, generator, parts=parts
        ),
        _plan(settings.pretrain),
        generator=torch.Generator(device).manual_seed(seed),
        work=work,
        title=model,
        validate=lambda averaged: compound_denoising.validation_loss(
            averaged, validation, settings.pretrain, settings.diffusion, seed=seed + 1
        ),
        validate_every_steps=settings.pretrain.validate_every_steps,
    )
    write_table(folder / "metrics.parquet", metrics)
    sizes = dict(zip(*np.unique(sets["train"].sizes, return_counts=True), strict=True))
    save_compound_denoiser(layout.model(model), ema, {int(n): int(k) for n, k in sizes.items()}, record)
    shutil.rmtree(work)


def data_spread_nm(systems: Sequence[Conformers]) -> float:
    """σ_data: root mean square of a coordinate about the centroid, averaged over systems, nm."""
    variances = [s.positions_nm.square().sum(dim=(-1, -2)).mean() / (3 * (s.graph.n_atoms - 1)) for s in systems]
    return float(torch.stack(variances).mean().sqrt())


def _loss_parts(
    training: Sequence[Conformers],
    settings: StageConfig,
    sigma_data_nm: float,
    generator: torch.Generator,
    parts: int,
) -> list[LossPart]:
    """The denoising loss of one batch in ``parts`` parts. Draws from ``generator``."""
    blocks = draw_blocks(
        training, settings.pretrain.batch_size, settings.diffusion, sigma_data_nm=sigma_data_nm, generator=generator
    )
    conformers = sum(len(batch) for _, batch in blocks)
    loss = partial(_part_loss, diffusion=settings.diffusion, conformers=conformers)
    return [partial(loss, blocks=part) for part in split_blocks(blocks, parts)]


def _part_loss(
    denoiser: Denoiser, *, blocks: Sequence[Block], diffusion: DiffusionSettings, conformers: int
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    return denoising_blocks_loss(denoiser, blocks, diffusion, conformers=conformers), {}


def _plan(settings: PretrainSettings) -> TrainingPlan:
    return TrainingPlan(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        gradient_clip=settings.gradient_clip,
        ema_halflife_steps=settings.ema_halflife_steps,
        checkpoint_every_seconds=settings.checkpoint_every_seconds,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        optimizer=settings.optimizer,
    )


@torch.no_grad()
def _validation_loss(denoiser: Denoiser, validation: Sequence[Conformers], settings: StageConfig, seed: int) -> float:
    """Denoising loss on held-out frames, with the same noise each time."""
    generator = torch.Generator(validation[0].positions_nm.device).manual_seed(seed + 1)
    blocks = draw_blocks(
        validation,
        64 * len(validation),
        settings.diffusion,
        sigma_data_nm=denoiser.sigma_data_nm,
        generator=generator,
    )
    return float(denoising_blocks_loss(denoiser, blocks, settings.diffusion))
