"""Quality of samples against solver and number of network evaluations, on the pretrained model of a finished run.

    python benchmarks/samplers.py results/peptides --system tetra

For each solver: Jensen–Shannon divergence of the Ramachandran maps from the model's own training MD (nats, mean over
residues, with the floor: as many frames of one half of that MD against the other), and how far the force-field energies
lie above those of the training MD (kT; 10th, 50th and 90th percentile). Everything is drawn from fixed seeds.
"""

import argparse
import os

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is loaded

import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from ancdiff.artifacts import read_ensemble, read_json, read_table
from ancdiff.basins import ramachandran
from ancdiff.config import DiffusionSettings, SampleSettings, ScoreSettings, StageConfig
from ancdiff.corridor import PRETRAINED, Layout
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.store import load_denoiser
from ancdiff.evaluate.ramachandran import bin_indices, divergence, divergence_floor
from ancdiff.evaluate.resampling import Sampling, independent
from ancdiff.forcefield.energies import Scorer
from ancdiff.molecules import Ensemble
from ancdiff.sample import draw_conformers
from ancdiff.units import thermal_energy_kj_mol

SOLVERS = (
    {"solver": "heun", "steps": 20},
    {"solver": "dpmpp_2m", "steps": 40},
    {"solver": "stochastic", "steps": 20, "churn": 8.0},
    {"solver": "dpmpp_2m_sde", "steps": 40, "eta": 1.0},
    {"solver": "dpmpp_2m_sde", "steps": 40, "eta": 3.0},
    {"solver": "dpmpp_2m_sde", "steps": 10, "eta": 8.0},
    {"solver": "dpmpp_2m_sde", "steps": 20, "eta": 8.0},
    {"solver": "dpmpp_2m_sde", "steps": 40, "eta": 8.0},
    {"solver": "dpmpp_2m_sde", "steps": 80, "eta": 8.0},
    {"solver": "dpmpp_2m_sde", "steps": 40, "eta": 12.0},
)
BINS, DRAWS, ENERGIES = 36, 20, 100


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--system", default="tetra")
    parser.add_argument("--conformers", type=int, default=400)
    asked = parser.parse_args()
    layout = Layout(asked.results)
    denoiser, record = load_denoiser(layout.model(PRETRAINED))
    settings = record["made_by"]["settings"]
    diffusion = DiffusionSettings(**settings["diffusion"])
    md = read_ensemble(layout.ensemble("training", asked.system))
    split = read_table(asked.results / "dataset" / "split.parquet")
    rows = split[(split["system"] == asked.system) & (split["md"] == "training")].sort_values("frame")
    sampling = Sampling(np.arange(len(md)), rows["half"].to_numpy())
    forcefield = scored_with(layout, asked.system).forcefield
    scorer = Scorer(md.molecule, md.positions_nm[0], forcefield, ScoreSettings(), threads=1)
    kt = thermal_energy_kj_mol(forcefield.temperature_kelvin)

    def energies(positions_nm: Float[np.ndarray, "conformers atoms 3"]) -> Float[np.ndarray, " conformers"]:
        chosen = positions_nm[:: max(1, len(positions_nm) // ENERGIES)]
        return np.array([row["energy_kj_mol"] for row in scorer.rows(np.arange(len(chosen)), chosen)]) / kt

    cells = bin_indices(ramachandran(md)[1], BINS)
    options = {"size": asked.conformers, "draws": DRAWS}
    floor = divergence_floor(cells, BINS, sampling=sampling, rng=np.random.default_rng(1), **options).mean()
    md_energy = np.percentile(energies(md.positions_nm), [10, 50, 90])
    print(f"{asked.system}, {asked.conformers} conformers; floor of the divergence {floor:.4f} nats")
    columns = f"{'evaluations':>12s}{'seconds':>9s}{'divergence':>12s}{'/ floor':>9s}{'energy above MD, kT':>24s}"
    print(f"{'solver':34s}{columns}")
    for chosen in SOLVERS:
        sample = SampleSettings(conformers=asked.conformers, **chosen)
        start = time.perf_counter()
        drawn = draw_conformers(
            denoiser.on(molecule_graph(md.molecule)),
            md.molecule.n_atoms,
            sample,
            diffusion,
            sigma_data_nm=denoiser.sigma_data_nm,
            generator=torch.Generator().manual_seed(1),
        )
        seconds = time.perf_counter() - start
        value, _ = divergence(
            bin_indices(ramachandran(Ensemble(md.molecule, drawn))[1], BINS),
            cells,
            BINS,
            sampling=independent(len(drawn)),
            against_sampling=sampling,
            repeats=2,
            rng=np.random.default_rng(1),
            **options,
        )
        above = np.nanpercentile(energies(drawn), [10, 50, 90]) - md_energy
        evaluations = sample.steps if sample.solver.startswith("dpmpp") else 2 * sample.steps - 1
        name = ", ".join(f"{k} {v:g}" for k, v in chosen.items() if k not in ("solver", "steps"))
        print(
            f"{sample.solver + (', ' + name if name else ''):34s}{evaluations:12d}{seconds:9.1f}{value.mean():12.4f}"
            f"{value.mean() / floor:9.2f}{above[0]:9.1f}{above[1]:7.1f}{above[2]:7.1f}",
            flush=True,
        )


def scored_with(layout: Layout, system: str) -> StageConfig:
    """Settings that the training MD of a system was scored with."""
    return StageConfig(read_json(layout.energies("training", system).with_suffix(".json"))["settings"])


if __name__ == "__main__":
    main()
