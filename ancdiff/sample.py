"""Sampling: conformers of one molecule from a model, by reverse diffusion."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from ancdiff.artifacts import read_molecule, write_ensemble
from ancdiff.config import DiffusionSettings, SampleSettings, StageConfig
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.store import choose_device, load_denoiser
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.noise import centred_noise, karras_sigma
from ancdiff.diffusion.samplers import dpmpp_2m, heun, stochastic
from ancdiff.errors import StageError
from ancdiff.molecules import Ensemble
from ancdiff.provenance import made_by


def run(settings: StageConfig, *, model: Path, topology: Path, output: Path, seed: int, threads: int) -> None:
    """Draw ``sample.conformers`` conformers and write them as ``output`` (DCD) with ``topology.pdb`` beside it."""
    torch.set_num_threads(threads)
    device = choose_device()
    denoiser, _ = load_denoiser(model)
    denoiser.to(device)
    molecule = read_molecule(topology)
    positions = draw_conformers(
        denoiser.on(molecule_graph(molecule).to(device)),
        molecule.n_atoms,
        settings.sample,
        settings.diffusion,
        sigma_data_nm=denoiser.sigma_data_nm,
        generator=torch.Generator(device).manual_seed(seed),
        title=f"sample {molecule.name}",
    )
    record = made_by("sample", settings=settings.as_dict(), seed=seed, parents=[model, topology])
    write_ensemble(output, Ensemble(molecule, positions), record)


def draw_conformers(
    denoise: Denoise,
    n_atoms: int,
    settings: SampleSettings,
    diffusion: DiffusionSettings,
    *,
    sigma_data_nm: float,
    generator: torch.Generator,
    title: str = "sample",
) -> Float[np.ndarray, "conformers atoms 3"]:
    """Conformers from noise, nm, float32. Draws from ``generator``.

    Raises:
        StageError: the sampler left the finite numbers.
    """
    sigma = karras_sigma(
        settings.steps,
        sigma_min_nm=diffusion.sigma_min * sigma_data_nm,
        sigma_max_nm=diffusion.sigma_max * sigma_data_nm,
        rho=settings.rho,
    )
    drawn = []
    with torch.inference_mode(), tqdm(total=settings.conformers, desc=title, unit="conformer", mininterval=2.0) as bar:
        for first in range(0, settings.conformers, settings.batch_size):
            n = min(settings.batch_size, settings.conformers - first)
            start = float(sigma[0]) * centred_noise((n, n_atoms, 3), generator=generator)
            if settings.solver == "heun":
                batch = heun(denoise, start, sigma)
            elif settings.solver == "dpmpp_2m":
                batch = dpmpp_2m(denoise, start, sigma)
            elif settings.solver == "dpmpp_2m_sde":
                batch = dpmpp_2m(denoise, start, sigma, eta=settings.eta, generator=generator)
            else:
                batch = stochastic(denoise, start, sigma, churn=settings.churn, generator=generator)
            drawn.append(batch.cpu())
            bar.update(n)
    positions = torch.cat(drawn).numpy()
    if not np.isfinite(positions).all():
        raise StageError(
            "sampling left the finite numbers",
            where=title,
            fix="train longer, or sample with more steps (sample.steps)",
        )
    return positions
