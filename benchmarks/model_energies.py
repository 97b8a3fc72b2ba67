"""How well model energies know the populations of a double well: the bound at several sizes, and the exact flow.

For one model of a run that has the double well (configs/exact-alignment.yaml): ln(P_short/P_long) of the density that
each kind of model energy claims, integrated over the distance, beside that of the training data and of the model's own
samples by several solvers. Draws from fixed seeds.
"""

import argparse
import os

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is loaded

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from ancdiff.artifacts import read_ensemble
from ancdiff.config import Config, load_config
from ancdiff.corridor import Layout
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.store import load_denoiser
from ancdiff.model_energies import pool_energies
from ancdiff.particles.potentials import PairPotential, exact_of_pair, potential_of
from ancdiff.sample import draw_conformers

BOUNDS = ((24, 2.0), (128, 2.0), (1024, 2.0), (1024, 10.0))
"""Noise levels, and the highest of them in units of the data's spread."""
SOLVERS = (("dpmpp_2m_sde", 40, 8.0), ("dpmpp_2m_sde", 40, 3.0), ("dpmpp_2m_sde", 100, 3.0), ("heun", 30, 0.0))
"""Solver, steps, and η where it draws fresh noise."""


def log_ratio(potential: PairPotential, distances: np.ndarray, energy_nats: np.ndarray) -> float:
    """ln(P_short/P_long) of the density d² e^{−E(d)} of the distance d."""
    log_p = 2 * np.log(distances) - energy_nats
    p = np.exp(log_p - log_p.max())
    short = distances <= potential.parameters["d0"]
    return float(np.log(p[short].sum() / p[~short].sum()))


def counted(potential: PairPotential, positions: Float[np.ndarray, "conformers 2 3"]) -> str:
    """The same of conformers in reduced lengths with its standard error, and their mean energy."""
    short = float((potential.wells(positions) == 0).mean())
    error = 1 / math.sqrt(len(positions) * short * (1 - short))
    return f"{math.log(short / (1 - short)):7.3f} ± {error:.3f}   ⟨E⟩ {potential.energy(positions).mean():7.3f} kT"


def main() -> None:
    parser = argparse.ArgumentParser(description="Populations of the double well by each kind of model energy.")
    parser.add_argument("--config", type=Path, default=Path("configs/exact-alignment.yaml"))
    parser.add_argument("--model", default="pretrain_seed1")
    parser.add_argument("--conformers", type=int, default=4000, help="samples of each solver (default: 4000)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config: Config = load_config(options.config)
    layout, settings = Layout(Path("results") / config.run.name), config.systems["double_well"].exact
    assert settings is not None
    potential, length = potential_of(settings), settings.length_nm
    exact = exact_of_pair(potential)
    assert exact is not None
    model, _ = load_denoiser(layout.model(options.model))
    data = read_ensemble(layout.ensemble("training", "double_well"))
    denoise, sigma = model.on(molecule_graph(data.molecule)), model.sigma_data_nm
    print(f"ln(P_short/P_long): exact {math.log(exact.populations[0] / exact.populations[1]):.3f}")
    print(f"  {'training data':40s} {counted(potential, data.positions_nm.astype(np.float64) / length)}")
    for solver, steps, eta in SOLVERS:
        sampling = config.sample.model_copy(
            update={
                "solver": solver,
                "steps": steps,
                "eta": eta,
                "conformers": options.conformers,
                "log_density": "none",
            }
        )
        generator = torch.Generator().manual_seed(5)
        drawn = draw_conformers(denoise, 2, sampling, config.diffusion, sigma_data_nm=sigma, generator=generator)
        said = f"samples, {solver}, {steps} steps" + (f", η {eta:g}" if eta else "")
        print(f"  {said:40s} {counted(potential, drawn.astype(np.float64) / length)}")
    distances = np.linspace(0.8, 7.2, 65)
    line = np.zeros((len(distances), 2, 3), dtype=np.float32)
    line[:, 0, 0], line[:, 1, 0] = 0.5 * distances * length, -0.5 * distances * length
    kinds = [("exact", 0, 0.0, steps) for steps in (6, 12)] + [("bound", *bound, 2) for bound in BOUNDS]
    for kind, levels, highest, steps in kinds:
        changed = {"anchor_energy": kind, "anchor_flow_steps": steps}
        changed |= {"anchor_noise_levels": levels, "energy_sigma_max": highest} if levels else {}
        align = config.align.model_copy(update=changed)
        found = [
            log_ratio(
                potential,
                distances,
                pool_energies(denoise, torch.as_tensor(line), align, config.diffusion, sigma, seed),
            )
            for seed in (1, 2, 3)[: 1 if kind == "exact" else 3]
        ]
        said = f"flow, {steps} steps" if kind == "exact" else f"bound, {levels} levels to {highest:g} σ_data"
        print(f"  {said:40s} " + "  ".join(f"{value:7.3f}" for value in found), flush=True)


if __name__ == "__main__":
    main()
