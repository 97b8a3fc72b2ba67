"""Cost of alignment and of log-densities at the sizes of config.yaml: part of `make bench`.

    step         one step of the objective, forward, backward and optimiser, against the size K of a group and the
                 number L of noise levels: conformers through the network in a second  |  the same without a gradient
    log-density  one conformer, `sample.steps` RK4 steps, against the number of atoms: exact trace  |  Hutchinson  |
                 none  |  weights of a path of ten times as many steps
    threads      samples by paths, a batch on each thread  |  one thread

Prints a table; draws from fixed seeds.
"""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is loaded

from collections.abc import Callable
from pathlib import Path

import torch
from timing import options_of, seconds_of

from ancdiff.artifacts import read_ensemble
from ancdiff.config import Config, load_config
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.diffusion.energy import likelihood_terms, shared_noise
from ancdiff.diffusion.levels import noise_levels
from ancdiff.diffusion.likelihood import Trace, exact_trace, flow, hutchinson_trace, no_trace, sample_with_log_density
from ancdiff.diffusion.noise import centre, centred_noise, karras_sigma
from ancdiff.diffusion.paths import isotropic_posteriors, sample_paths
from ancdiff.molecules import Ensemble
from ancdiff.objectives import GroupEnergies, eba_loss
from ancdiff.origins import BUNDLED_MD
from ancdiff.sample import draw_with_path_density

REPOSITORY = Path(__file__).resolve().parent.parent
SPREAD_NM = 0.2
BATCH = 16


def alignment_steps(config: Config, ensemble: Ensemble, at_least: float) -> None:
    """Seconds of a step against K and L; it should grow as K·L."""
    torch.manual_seed(1)
    denoiser = Denoiser(config.denoiser, sigma_data_nm=SPREAD_NM)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, foreach=True)
    denoise = denoiser.on(molecule_graph(ensemble.molecule))
    low, high = config.diffusion.sigma_min * SPREAD_NM, config.align.energy_sigma_max * SPREAD_NM
    print(f"alignment step, {ensemble.molecule.n_atoms} atoms: seconds (conformers/s), and without a gradient")
    for k in (2, 8, 16):
        x = centre(torch.as_tensor(ensemble.positions_nm[:k]))
        for levels in (8, 32):
            shared = shared_noise(
                levels, x.shape[1], sigma_min_nm=low, sigma_max_nm=high, generator=torch.Generator().manual_seed(1)
            )

            def terms(x: torch.Tensor = x, shared=shared) -> torch.Tensor:
                return likelihood_terms(denoise, x, shared, sigma_min_nm=low, sigma_max_nm=high, superpose=True)

            def step(terms: Callable[[], torch.Tensor] = terms, k: int = k) -> None:
                optimizer.zero_grad(set_to_none=True)
                group = GroupEnergies(torch.linspace(0.0, -5.0, k), terms())
                eba_loss(group.log_weights, group.model.mean(dim=1), alpha=1.0).backward()
                optimizer.step()

            ours = seconds_of(step, at_least=at_least)
            with torch.no_grad():
                plain = seconds_of(terms, at_least=at_least / 2)
            print(
                f"  K = {k:2d}, L = {levels:2d}: {ours:8.3f} s ({k * levels / ours:7.0f}/s)  {plain:8.3f} s", flush=True
            )


def log_densities(config: Config, ensembles: dict[str, Ensemble], at_least: float) -> None:
    """Seconds of one sample with its log-density against the number of atoms, by each trace, and without one."""
    print(f"sample with log-density, {config.sample.steps} levels, RK4: seconds of a conformer (batch of {BATCH})")
    sigma, levels = (
        karras_sigma(
            steps,
            sigma_min_nm=config.diffusion.sigma_min * SPREAD_NM,
            sigma_max_nm=config.diffusion.sigma_max * SPREAD_NM,
            rho=config.sample.rho,
        )
        for steps in (config.sample.steps, 10 * config.sample.steps)
    )
    for ensemble in ensembles.values():
        atoms = ensemble.molecule.n_atoms
        torch.manual_seed(1)
        denoise = Denoiser(config.denoiser, sigma_data_nm=SPREAD_NM).eval().requires_grad_(False)
        bound = denoise.on(molecule_graph(ensemble.molecule))
        start = float(sigma[0]) * centred_noise((BATCH, atoms, 3), generator=torch.Generator().manual_seed(2))
        probes = config.sample.log_density_probes
        traces: dict[str, Trace] = {
            "exact": exact_trace(),
            f"Hutchinson, {probes} probes": hutchinson_trace(probes, generator=torch.Generator().manual_seed(3)),
        }

        def sample(trace: Trace, bound=bound, start: torch.Tensor = start) -> object:
            return sample_with_log_density(bound, start, sigma[:-1], trace=trace, order=4, data_spread_nm=SPREAD_NM)

        def alone(bound=bound, start: torch.Tensor = start) -> object:
            return flow(bound, start, sigma[:-1], trace=no_trace, order=4)

        def by_path(bound=bound, start: torch.Tensor = start) -> object:
            generator = torch.Generator().manual_seed(4)
            posteriors = isotropic_posteriors(levels, SPREAD_NM, atoms=start.shape[1])
            return sample_paths(bound, start, posteriors, eta=1.0, data_spread_nm=SPREAD_NM, generator=generator)

        found = {name: seconds_of(lambda t=t, draw=sample: draw(t), at_least=at_least) for name, t in traces.items()}
        found["no density"] = seconds_of(alone, at_least=at_least)
        found[f"path, {len(levels) - 1} steps"] = seconds_of(by_path, at_least=at_least)
        times = "   ".join(f"{name} {s / BATCH:8.3f} s" for name, s in found.items())
        print(f"  {atoms:3d} atoms, {3 * (atoms - 1):3d} dimensions:   {times}", flush=True)


def threads(config: Config, ensemble: Ensemble, at_least: float) -> None:
    """Conformers a second by paths, a batch on each thread, beside one thread."""
    torch.set_num_threads(1)  # as the stage does
    torch.manual_seed(1)
    denoise = Denoiser(config.denoiser, sigma_data_nm=SPREAD_NM).eval().requires_grad_(False)
    bound = denoise.on(molecule_graph(ensemble.molecule))
    workers = os.cpu_count() or 1
    size = config.sample.batch_size
    asked = {"solver": "ancestral", "conformers": workers * size}
    settings = config.sample.model_copy(update=asked)
    levels = noise_levels(settings, config.diffusion, sigma_data_nm=SPREAD_NM)
    posteriors = isotropic_posteriors(levels, SPREAD_NM, atoms=ensemble.molecule.n_atoms)

    def draw(workers: int) -> object:
        given = {"sigma_data_nm": SPREAD_NM, "generator": torch.Generator().manual_seed(2), "posteriors": posteriors}
        return draw_with_path_density(bound, ensemble.molecule.n_atoms, settings, **given, paths=2, threads=workers)

    one, all_of_them = (settings.conformers / seconds_of(lambda n=n: draw(n), at_least=at_least) for n in (1, workers))
    print(
        f"sample by paths in batches of {size}, {workers} threads: {all_of_them:.1f} conformers/s, "
        f"{all_of_them / one:.2f} x those of one",
        flush=True,
    )


def main() -> None:
    options = options_of("Cost of an alignment step, and of a log-density.", seconds=2.0)
    config = load_config(REPOSITORY / "config.yaml")
    ensembles = {n: read_ensemble(BUNDLED_MD / n / "training.dcd", name=n) for n in ("ala", "leu", "tetra")}
    alignment_steps(config, ensembles["ala"], options.seconds)
    log_densities(config, ensembles, options.seconds)
    threads(config, ensembles["ala"], options.seconds)


if __name__ == "__main__":
    main()
