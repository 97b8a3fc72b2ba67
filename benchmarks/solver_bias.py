"""What the steps of a solver alone do to energies: harmonic modes under a perfect denoiser.

    python benchmarks/solver_bias.py --config configs/exact.yaml

The data are a Gaussian of standard deviation s in every coordinate, whose denoiser is known, D(x; σ) = s²/(s² + σ²) x.
Sampled with the noise levels of a configuration, the variance comes out wrong by the error of the steps, whatever was
learned. Printed is variance/s², the mean energy of a harmonic mode over ½ kT, for modes of several s in units of the
data's spread; 0.1 too much is 0.05 kT for each vibration of a molecule. Everything is drawn from fixed seeds.
"""

import argparse
from pathlib import Path

import torch

from ancdiff.config import DiffusionSettings, SampleSettings, load_config
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.levels import noise_levels
from ancdiff.diffusion.noise import start_noise
from ancdiff.diffusion.samplers import dpmpp_2m, heun, stochastic

SPREADS = (0.03, 0.06, 0.1, 0.3, 1.0)
SOLVERS = (
    {"solver": "heun"},
    {"solver": "stochastic", "churn": 8.0},
    {"solver": "dpmpp_2m"},
    {"solver": "dpmpp_2m_sde", "eta": 1.0},
    {"solver": "dpmpp_2m_sde", "eta": 3.0},
    {"solver": "dpmpp_2m_sde", "eta": 8.0},
)
EVALUATIONS = (10, 20, 50, 100)
CONFORMERS, ATOMS = 4000, 11  # 120,000 coordinates: variances to 0.4 %


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"))
    config = load_config(parser.parse_args().config)
    print(f"{'solver':24s}{'evaluations':>12s}" + "".join(f"{f's = {s:g}':>10s}" for s in SPREADS))
    for chosen in SOLVERS:
        for evaluations in EVALUATIONS:
            one_a_step = chosen["solver"].startswith("dpmpp")
            steps = evaluations if one_a_step else (evaluations + 1) // 2
            sample = config.sample.model_copy(update={**chosen, "steps": steps})
            ratios = [variance_ratio(s, sample, config.diffusion) for s in SPREADS]
            name = ", ".join(f"{k} {v:g}" for k, v in chosen.items() if k != "solver")
            print(
                f"{sample.solver + (', ' + name if name else ''):24s}{steps if one_a_step else 2 * steps - 1:12d}"
                + "".join(f"{ratio:10.3f}" for ratio in ratios),
                flush=True,
            )


def variance_ratio(spread: float, sample: SampleSettings, diffusion: DiffusionSettings) -> float:
    """Variance of sampled coordinates over s²; lengths in units of the data's spread."""
    generator = torch.Generator().manual_seed(1)
    sigma = noise_levels(sample, diffusion, sigma_data_nm=1.0)
    start = start_noise(
        (CONFORMERS, ATOMS, 3), sigma_max_nm=float(sigma[0]), data_spread_nm=spread, generator=generator
    ).double()

    def perfect(noisy_nm: torch.Tensor, sigma_nm: torch.Tensor) -> torch.Tensor:
        return noisy_nm * (spread**2 / (spread**2 + sigma_nm**2))[:, None, None]

    drawn = _solve(perfect, start, sigma, sample)
    return float(drawn.square().sum() / (CONFORMERS * (ATOMS - 1) * 3)) / spread**2


def _solve(denoise: Denoise, start: torch.Tensor, sigma: torch.Tensor, sample: SampleSettings) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if sample.solver == "heun":
        return heun(denoise, start, sigma)
    if sample.solver == "stochastic":
        return stochastic(denoise, start, sigma, churn=sample.churn, generator=generator)
    return dpmpp_2m(
        denoise, start, sigma, eta=sample.eta if sample.solver == "dpmpp_2m_sde" else 0.0, generator=generator
    )


if __name__ == "__main__":
    main()
