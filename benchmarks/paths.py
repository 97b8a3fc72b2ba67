"""What the number of steps and η do to samples by paths, and to their weights, on a model of a finished run.

    python benchmarks/paths.py results/alanine --model eba_round1_seed2026 --steps 150 300 600 --eta 1.0 1.2

For each: how far the median energy lies above that of the scored training MD (kT), the share of effective samples (%)
under weights e^(−βE)/ω, the shape k of the weights' tail, seconds of CPU for a conformer, and the error of the
free-energy difference of α_R and β (kT; all residues in the one or in the other) against the reference MD, as drawn
and reweighted. Intervals are of 95 %, by bootstrap over samples. The run's own settings are taken for what is not
asked. Everything is drawn from fixed seeds, and threads change nothing.
"""

import argparse
import os

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is loaded

import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from samplers import scored_with

from ancdiff.artifacts import read_ensemble, read_json, read_molecule, read_table
from ancdiff.basins import BASINS, basins_together
from ancdiff.config import StageConfig
from ancdiff.corridor import Layout
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.store import load_denoiser
from ancdiff.forcefield.energies import Scorer
from ancdiff.molecules import Ensemble
from ancdiff.sample import draw_with_path_density, path_posteriors
from ancdiff.units import thermal_energy_kj_mol
from ancdiff.weights import free_energy_difference, importance_weights

REPEATS = 400


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--system", default="ala")
    parser.add_argument("--model", default="pretrain")
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 300, 600])
    parser.add_argument("--eta", type=float, nargs="+", default=[1.0, 1.2])
    parser.add_argument("--paths", type=int, default=1)
    parser.add_argument("--conformers", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    layout = Layout(asked.results)
    denoiser, _ = load_denoiser(layout.model(asked.model))
    denoiser.compile_layers()
    ensemble = layout.ensemble(asked.model, asked.system)
    molecule = read_molecule(ensemble.with_name("topology.pdb"))
    denoise = denoiser.on(molecule_graph(molecule))
    sampled = StageConfig(read_json(ensemble.with_suffix(".json"))["settings"])
    md = read_table(layout.energies("training", asked.system))
    scored = scored_with(layout, asked.system)
    kelvin = scored.forcefield.temperature_kelvin
    md_median = float(md["energy_kj_mol"][md["status"] == "ok"].median())
    print(f"{asked.model}, {asked.conformers} conformers of {asked.system}, {asked.paths} paths for each")
    reference = layout.ensemble("reference", asked.system)
    right = log_ratio(*alpha_and_beta(read_ensemble(reference, topology=layout.topology(asked.system))))
    print(
        f"{'steps':>6s}{'eta':>6s}{'median energy above MD, kT':>32s}{'effective, %':>22s}{'k':>7s}{'s/conformer':>13s}"
        f"{'error of dF as drawn, kT':>28s}{'reweighted':>28s}"
    )
    for steps, eta in product(asked.steps, asked.eta):
        changes = {"conformers": asked.conformers, "steps": steps, "eta": eta}
        settings = sampled.sample.model_copy(update=changes)
        start = time.process_time()
        drawn = {"sigma_data_nm": denoiser.sigma_data_nm, "generator": torch.Generator().manual_seed(1)}
        posteriors = path_posteriors(denoise, molecule.n_atoms, settings, sampled.diffusion, **drawn)
        positions, table = draw_with_path_density(
            denoise,
            molecule.n_atoms,
            settings,
            **drawn,
            posteriors=posteriors,
            paths=asked.paths,
            threads=asked.threads,
        )
        seconds = (time.process_time() - start) / len(positions)
        rows = Scorer(molecule, positions[0], scored.forcefield, scored.score).rows(
            np.arange(len(positions)), positions
        )
        energy = np.array([row["energy_kj_mol"] if row["status"] == "ok" else np.nan for row in rows])
        nats = table["log_density_nats"].to_numpy()
        found = measures(energy - md_median, nats, kelvin)
        states = alpha_and_beta(Ensemble(molecule, positions))
        weights = importance_weights(energy, nats, kelvin).log_weight
        errors = "".join(f"{error_of(states, w, right):>28s}" for w in (np.zeros(len(energy)), weights))
        print(f"{steps:6d}{eta:6.2f}{found}{seconds:13.3f}{errors}", flush=True)


def alpha_and_beta(ensemble: Ensemble) -> tuple[np.ndarray, np.ndarray]:
    """Which conformers have all residues in α_R, and which in β."""
    basins = [set(together) for together in basins_together(ensemble)]
    alpha, beta = (np.array([b == {str(BASINS.index(name))} for b in basins]) for name in ("alpha_r", "beta"))
    return alpha, beta


def log_ratio(in_a: np.ndarray, in_b: np.ndarray) -> float:
    """F_a − F_b in kT of conformers as they are; NaN where a state has none."""
    return float(np.log(in_b.sum() / in_a.sum())) if in_a.any() and in_b.any() else np.nan


def error_of(states: tuple[np.ndarray, np.ndarray], log_weight: np.ndarray, right: float) -> str:
    """A free-energy difference of two states less that of the reference, whose own error is not in the interval."""
    if np.isnan(right) or not all(state.any() for state in states):
        return "-"
    found = free_energy_difference(log_weight, *states, repeats=REPEATS, rng=np.random.default_rng(1))
    return f"{found.value - right:+.2f} ({found.low - right:+.2f} to {found.high - right:+.2f})"


def measures(above_kj_mol: np.ndarray, log_density_nats: np.ndarray, kelvin: float) -> str:
    """Columns of the table: median energy, effective share, k."""
    rng = np.random.default_rng(1)

    def of(chosen: np.ndarray) -> tuple[float, float, float]:
        found = importance_weights(above_kj_mol[chosen], log_density_nats[chosen], kelvin)
        median = float(np.nanmedian(above_kj_mol[chosen])) / thermal_energy_kj_mol(kelvin)
        return median, 100 * found.ess / len(chosen), found.pareto_k

    n = len(above_kj_mol)
    median, share, k = of(np.arange(n))
    low, high = np.percentile([of(rng.choice(n, n))[:2] for _ in range(REPEATS)], [2.5, 97.5], axis=0)
    energy = f"{median:+.2f} ({low[0]:+.2f} to {high[0]:+.2f})"
    effective = f"{share:.1f} ({low[1]:.1f}-{high[1]:.1f})"
    return f"{energy:>32s}{effective:>22s}{k:7.2f}"


if __name__ == "__main__":
    main()
