"""Speeds and memory of the denoiser of compounds, beside EDM's: `make bench`, or python benchmarks/qm9.py --help.

    training    molecules per second: forward, backward, optimiser; 64 molecules of 18 atoms (QM9's mean) in four blocks
    generation  molecules per second with 49 network evaluations, from the time of single evaluations of 64 molecules
    memory      what a training step adds at its peak to the process (Linux), or to the memory of a GPU
    scaling     training, with the number of atoms and with the batch

EDM's own code was measured on two cores of the same kind at nine layers of 256 features: 3.6 molecules per second in
training (batch 64), 4.6 s for each of 1,000 reverse steps of 64 molecules. Nothing is read; molecules are random.
"""

import argparse
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from timing import forget_peak_memory, peak_memory_mib, seconds_of

from ancdiff.compound_denoising import CompoundData, SizeBlock, batch_parts
from ancdiff.config import DenoiserSettings, DiffusionSettings, PretrainSettings, load_config
from ancdiff.denoiser.compounds import CompoundDenoiser
from ancdiff.denoiser.store import choose_device
from ancdiff.diffusion.noise import centred_noise
from ancdiff.training import gradients

REPOSITORY = Path(__file__).resolve().parent.parent
SIZES = {
    **{name: load_config(REPOSITORY / name).denoiser for name in ("configs/qm9-slice.yaml", "configs/qm9.yaml")},
    "EDM's width and depth": DenoiserSettings(features=256, pair_features=256, layers=9),
}
EDM_TRAINING, EDM_GENERATION = 3.6, 64 / (4.6 * 1000)
EVALUATIONS = 49


def denoiser_of(settings: DenoiserSettings) -> CompoundDenoiser:
    torch.manual_seed(1)
    return CompoundDenoiser(settings, sigma_data_nm=0.14, frequencies=(0.51, 0.35, 0.06, 0.08, 0.0)).to(choose_device())


def molecules(n: int, atoms: int) -> CompoundData:
    """Random molecules of one size."""
    generator = torch.Generator(choose_device()).manual_seed(1)
    positions = 0.14 * centred_noise((n, atoms, 3), generator=generator)
    types = torch.randint(5, (n, atoms), generator=generator, device=generator.device)
    return CompoundData((SizeBlock(positions, types),))


def training(settings: DenoiserSettings, *, batch: int, atoms: int, seconds: float) -> float:
    """Molecules per second."""
    denoiser, data = denoiser_of(settings), molecules(batch, atoms)
    plan = PretrainSettings(batch_size=batch, blocks=min(4, batch))
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, foreach=True)
    parameters, generator = list(denoiser.parameters()), torch.Generator(choose_device()).manual_seed(1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def step() -> None:
            parts = batch_parts(
                denoiser, data, plan, DiffusionSettings(superpose=False), generator, parts=os.cpu_count() or 1
            )
            gradients(denoiser, parameters, parts, pool)
            optimizer.step()

        return batch / seconds_of(step, at_least=seconds)


def generation(settings: DenoiserSettings, seconds: float) -> float:
    """Molecules per second."""
    denoiser, block = denoiser_of(settings), molecules(64, 18).blocks[0]
    torch.set_num_threads(os.cpu_count() or 1)
    states, sigma = denoiser.state(block.positions_nm, block.types), torch.full((64,), 0.1, device=choose_device())
    with torch.inference_mode():
        one = seconds_of(lambda: denoiser(states, sigma), at_least=seconds)
    torch.set_num_threads(1)
    return 64 / (EVALUATIONS * one)


def peak_mib(settings: DenoiserSettings) -> float:
    """Memory that a training step of 64 molecules of 18 atoms adds at its peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        training(settings, batch=64, atoms=18, seconds=0.0)
        return torch.cuda.max_memory_allocated() / 2**20
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process of its own, whose peak is the step's
        return pool.apply(_peak_of_a_step, (settings,))


def _peak_of_a_step(settings: DenoiserSettings) -> float:
    forget_peak_memory()  # importing and starting have had theirs
    before = peak_memory_mib()
    training(settings, batch=64, atoms=18, seconds=0.0)
    return peak_memory_mib() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    print(f"{'':26s}{'training':>14s}{'EDM':>8s}{'generation':>14s}{'EDM':>9s}{'memory':>11s}")
    for name, settings in SIZES.items():
        trained = training(settings, batch=64, atoms=18, seconds=seconds)
        drawn = generation(settings, seconds)
        speeds = f"{trained:10.1f} /s {trained / EDM_TRAINING:6.1f} x{drawn:10.2f} /s {drawn / EDM_GENERATION:6.0f} x"
        print(f"{name:26s}{speeds}{peak_mib(settings):7.0f} MiB", flush=True)
    ours = SIZES["configs/qm9-slice.yaml"]
    for what, cases in (("atoms", [(64, 9), (64, 18), (64, 29)]), ("batch", [(16, 18), (64, 18), (256, 18)])):
        rates = ", ".join(
            f"{batch if what == 'batch' else atoms}: {training(ours, batch=batch, atoms=atoms, seconds=seconds):.0f} /s"
            for batch, atoms in cases
        )
        print(f"training by {what}: {rates}", flush=True)


if __name__ == "__main__":
    main()
