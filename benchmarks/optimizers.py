"""What an optimiser learns in as many steps: held-out denoising loss after short pretrainings on the bundled peptides.

    python benchmarks/optimizers.py --steps 1000

Settings are those of config.yaml but for `pretrain.optimizer`, `learning_rate` and `steps`; the last tenth of each
system's training MD is held out, under noise that is uniform in ln σ. Prints the loss in nats a conformer (differences
are those of a bound on the log-likelihood), its standard error, and the seconds of the training on one thread.
"""

import argparse
import math
import os

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is loaded

import tempfile
import time
from pathlib import Path
from typing import Literal

import torch

from ancdiff.artifacts import read_ensemble
from ancdiff.config import load_config
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoising import Conformers, denoising_blocks_loss, draw_blocks
from ancdiff.diffusion.energy import training_noise
from ancdiff.diffusion.noise import TrainingLevels, centre
from ancdiff.origins import BUNDLED_MD
from ancdiff.pretrain import data_spread_nm
from ancdiff.training import TrainingPlan, train

REPOSITORY = Path(__file__).resolve().parent.parent
OPTIMIZERS: tuple[tuple[Literal["adamw", "muon"], float], ...] = (
    ("adamw", 0.003),
    ("adamw", 0.006),
    ("muon", 0.003),
    ("muon", 0.006),
    ("muon", 0.008),
)
HELD_OUT = 400  # conformers of each system


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(REPOSITORY / "config.yaml")
    training, held = [], []
    for name in ("ala", "val", "ser", "leu", "tetra"):
        ensemble = read_ensemble(BUNDLED_MD / name / "training.dcd", name=name)
        graph, x = molecule_graph(ensemble.molecule), centre(torch.as_tensor(ensemble.positions_nm))
        first = len(x) - len(x) // 10
        training.append(Conformers(name, graph, x[:first]))
        held.append(Conformers(name, graph, x[first:][:: max(1, (len(x) - first) // HELD_OUT)][:HELD_OUT]))
    spread_nm, diffusion = data_spread_nm(training), config.diffusion
    low, high = diffusion.sigma_min * spread_nm, diffusion.sigma_max * spread_nm
    uniform = TrainingLevels(low, high, median_nm=low, log_width=1.0, uniform_share=1.0)
    print(f"{asked.steps} steps of {config.pretrain.batch_size} conformers: held-out nats, and seconds")
    for optimizer, rate in OPTIMIZERS:
        torch.manual_seed(1)
        denoiser = Denoiser(config.denoiser, sigma_data_nm=spread_nm)

        def loss_of_step(generator: torch.Generator) -> list:
            blocks = draw_blocks(
                training, config.pretrain.batch_size, diffusion, sigma_data_nm=spread_nm, generator=generator
            )
            return [lambda d: (denoising_blocks_loss(d, blocks, diffusion), {})]

        plan = TrainingPlan(
            steps=asked.steps,
            learning_rate=rate,
            gradient_clip=config.pretrain.gradient_clip,
            ema_halflife_steps=config.pretrain.ema_halflife_steps,
            checkpoint_every_seconds=math.inf,
            warmup_steps=config.pretrain.warmup_steps,
            optimizer=optimizer,
        )
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            generator = torch.Generator().manual_seed(1)
            averaged, _ = train(denoiser, loss_of_step, plan, generator=generator, work=Path(work), title=optimizer)
        seconds = time.perf_counter() - started
        nats = []
        for system in held:
            generator = torch.Generator().manual_seed(2)
            batch = training_noise(system.positions_nm, uniform, superpose=diffusion.superpose, generator=generator)
            with torch.no_grad():
                clean = averaged.on(system.graph)(batch.noisy_nm, batch.sigma_nm)
            error = (clean - batch.target_nm).square().sum(dim=(-1, -2)) / batch.sigma_nm**2
            nats.append(error * math.log(high / low))
        mean = torch.stack([one.mean() for one in nats]).mean()
        spread = torch.stack([one.var() / len(one) for one in nats]).sum().sqrt() / len(nats)
        print(f"  {optimizer:5s} {rate:.3f}: {mean:8.2f} ± {spread:.2f}   {seconds:6.0f} s", flush=True)


if __name__ == "__main__":
    main()
