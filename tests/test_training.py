"""The loop: a killed training goes on and ends with the weights of an unbroken one."""

import math
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
import torch

import ancdiff.training as training
from ancdiff.config import DenoiserSettings, DiffusionSettings
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoising import denoising_blocks_loss, noisy_block, split_blocks
from ancdiff.diffusion.noise import centre
from ancdiff.errors import StageError
from ancdiff.testing import alanine_dipeptide
from ancdiff.training import LossPart, TrainingPlan, gradients, train

PLAN = TrainingPlan(
    steps=12,
    learning_rate=1e-3,
    gradient_clip=1.0,
    ema_halflife_steps=5.0,
    checkpoint_every_seconds=0.0,
    warmup_steps=3,
)


def make_denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(DenoiserSettings(features=16, pair_features=8, layers=1), sigma_data_nm=0.15)


def loss_of_step(generator: torch.Generator) -> list[LossPart]:
    ensemble = alanine_dipeptide()
    clean = centre(torch.as_tensor(ensemble.positions_nm)).repeat(4, 1, 1)
    graph = molecule_graph(ensemble.molecule)
    block = noisy_block(graph, clean, DiffusionSettings(), 0.15, generator)
    return [lambda denoiser: (denoising_blocks_loss(denoiser, [block]), {"extra": 1.0})]


def run(work: Path, plan: TrainingPlan = PLAN, loss=loss_of_step) -> tuple[Denoiser, pd.DataFrame]:
    return train(make_denoiser(), loss, plan, generator=torch.Generator().manual_seed(1), work=work, title="test")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_training_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, optimizer: Literal["adamw", "muon"]
) -> None:
    plan = replace(PLAN, optimizer=optimizer)
    unbroken, metrics = run(tmp_path / "unbroken", plan)

    calls = 0

    def dies(generator: torch.Generator) -> list[LossPart]:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return loss_of_step(generator)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", plan, loss=dies)
    resumed, resumed_metrics = run(tmp_path / "broken", plan)
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    same = ["step", "loss", "learning_rate", "gradient_norm"]
    pd.testing.assert_frame_equal(metrics[same], resumed_metrics[same])
    assert resumed_metrics["step"].tolist() == list(range(1, 13))


def test_muon_moves_matrices_by_singular_values_that_are_alike_and_the_rest_as_adamw_does(tmp_path: Path) -> None:
    rate = 1e-3
    plan = replace(PLAN, steps=1, warmup_steps=0, learning_rate=rate, optimizer="muon")
    before = make_denoiser()
    model = deepcopy(before)
    train(model, loss_of_step, plan, generator=torch.Generator().manual_seed(1), work=tmp_path / "work", title="test")
    moved = {
        name: (p - old).detach() for (name, p), old in zip(model.named_parameters(), before.parameters(), strict=True)
    }
    matrices = [name for name in moved if name.endswith("message.1.weight") or name.endswith("atom_to_pair.weight")]
    assert len(matrices) == 2
    for name in matrices:
        size = 0.2 * max(moved[name].shape) ** 0.5 * rate
        assert torch.linalg.svdvals(moved[name])[:4] / size == pytest.approx([0.95] * 4, abs=0.35)
    for name in ("network.layers.0.torsions.weight", "network.noise.0.bias", "network.bonds.weight"):
        step = moved[name][moved[name] != 0].abs()
        assert step.numpy() == pytest.approx(rate, rel=0.02)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "work", TrainingPlan(**{**PLAN.__dict__, "steps": 6}))
    checkpoint = tmp_path / "work" / "checkpoint.safetensors"
    before = checkpoint.read_bytes()

    def half_written(tensors, path, metadata) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_file", half_written)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "work")
    assert checkpoint.read_bytes() == before


def test_the_parts_of_a_batch_add_up_to_its_loss_and_gradient() -> None:
    clean = centre(torch.as_tensor(alanine_dipeptide().positions_nm)).repeat(5, 1, 1)
    graph = molecule_graph(alanine_dipeptide().molecule)
    block = noisy_block(graph, clean, DiffusionSettings(), 0.15, torch.Generator().manual_seed(3))
    denoiser = make_denoiser()
    denoising_blocks_loss(denoiser, [block]).backward()
    whole = [p.grad.clone() for p in denoiser.parameters() if p.grad is not None]

    def part(blocks) -> LossPart:
        return lambda model: (denoising_blocks_loss(model, blocks, conformers=5), {})

    with ThreadPoolExecutor() as pool:
        parameters = list(denoiser.parameters())
        parts = [part(blocks) for blocks in split_blocks([block], 3)]  # 2, 2 and 1 conformers
        loss, _ = gradients(denoiser, parameters, parts, pool)
    assert loss.item() == pytest.approx(denoising_blocks_loss(denoiser, [block]).item(), rel=1e-5)
    added = [p.grad for p in denoiser.parameters() if p.grad is not None]
    for a, b in zip(whole, added, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_with_a_message(tmp_path: Path) -> None:
    def infinite(generator: torch.Generator) -> list[LossPart]:
        (part,) = loss_of_step(generator)
        return [lambda denoiser: (part(denoiser)[0] * math.inf, {})]

    with pytest.raises(StageError, match=r"the loss became inf .* at step 1"):
        run(tmp_path / "work", loss=infinite)


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    with training._locked(tmp_path / "work"), pytest.raises(StageError, match="another process is training here"):
        run(tmp_path / "work")


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    plan = TrainingPlan(
        steps=150, learning_rate=5e-3, gradient_clip=1.0, ema_halflife_steps=10.0, checkpoint_every_seconds=1e9
    )
    _, metrics = run(tmp_path / "work", plan)
    assert metrics["loss"].tail(30).mean() < 0.7 * metrics["loss"].head(10).mean()


def test_learning_rate_warms_up_and_decays() -> None:
    plan = TrainingPlan(
        steps=100,
        learning_rate=1.0,
        gradient_clip=1.0,
        ema_halflife_steps=1.0,
        checkpoint_every_seconds=1.0,
        warmup_steps=10,
    )
    rates = [plan.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[-1] < 0.02


def test_patience_keeps_the_average_with_the_lowest_validation_loss(tmp_path: Path) -> None:
    """Also where the training was killed after the lowest one."""
    plan = replace(PLAN, steps=30)
    losses = iter([3.0, 1.0, 2.0, 2.5, 0.5, 0.4])
    seen: list[Denoiser] = []

    def validate(averaged: Denoiser) -> float:
        seen.append(deepcopy(averaged))
        return next(losses)

    def stopped(work: Path, loss=loss_of_step) -> tuple[Denoiser, pd.DataFrame]:
        generator = torch.Generator().manual_seed(1)
        return train(
            make_denoiser(), loss, plan, generator=generator, work=work, title="test", validate=validate,
            validate_every_steps=2, patience=2,
        )  # fmt: skip

    best, curve = stopped(tmp_path / "unbroken")
    assert len(curve) == 8  # four validations: the second is the lowest, two more have passed
    for mine, theirs in zip(best.parameters(), seen[1].parameters(), strict=True):
        assert torch.equal(mine, theirs)

    losses, calls = iter([3.0, 1.0, 2.0, 2.5]), 0

    def dies(generator: torch.Generator) -> list[LossPart]:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return loss_of_step(generator)

    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path / "killed", loss=dies)
    again, curve = stopped(tmp_path / "killed")
    assert len(curve) == 8
    for mine, theirs in zip(again.parameters(), best.parameters(), strict=True):
        assert torch.equal(mine, theirs)
