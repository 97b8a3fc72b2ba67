"""Sampling: conformers of one molecule from a model, by reverse diffusion."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ancdiff.artifacts import read_molecule, write_ensemble
from ancdiff.config import DiffusionSettings, SampleSettings, StageConfig
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.store import choose_device, load_denoiser
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.noise import centred_noise, karras_sigma
from ancdiff.diffusion.samplers import dpmpp_2m, heun, stochastic
from ancdiff.diffusion.variance_preserving import vp_sigma_nm
from ancdiff.errors import StageError
from ancdiff.molecules import Ensemble
from ancdiff.provenance import made_by


def run(settings: StageConfig, *, model: Path, topology: Path, output: Path, seed: int, threads: int) -> None:
    """Draw ``sample.conformers`` conformers and write them as ``output`` (DCD) with ``topology.pdb`` beside it.

    The way of the first one from noise to shape goes to ``reverse.dcd`` beside them, its noise levels to the record.
    """
    torch.set_num_threads(threads)
    device = choose_device()
    denoiser, _ = load_denoiser(model)
    denoiser.to(device)
    molecule = read_molecule(topology)
    path = ReversePath(denoiser.on(molecule_graph(molecule).to(device)))
    positions = draw_conformers(
        path,
        molecule.n_atoms,
        settings.sample,
        settings.diffusion,
        sigma_data_nm=denoiser.sigma_data_nm,
        generator=torch.Generator(device).manual_seed(seed),
        title=f"sample {molecule.name}",
    )
    record = made_by("sample", settings=settings.as_dict(), seed=seed, parents=[model, topology])
    record["reverse_sigma_nm"] = [*path.sigma_nm, 0.0]
    frames = np.concatenate([*path.frames_nm, positions[:1]])
    write_ensemble(output.with_name("reverse.dcd"), Ensemble(molecule, frames))
    write_ensemble(output, Ensemble(molecule, positions), record)


class ReversePath:
    """A denoiser that keeps what it is shown of the first conformer, where the noise falls to a new level."""

    def __init__(self, denoise: Denoise) -> None:
        self._denoise = denoise
        self.sigma_nm: list[float] = []
        self.frames_nm: list[Float[np.ndarray, "1 atoms 3"]] = []

    def __call__(
        self, noisy_nm: Float[Tensor, "batch atoms 3"], sigma_nm: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch atoms 3"]:
        sigma = float(sigma_nm[0])
        # Later batches start at the highest noise again; a stochastic step goes up a little before it goes down.
        if not self.sigma_nm or sigma < self.sigma_nm[-1]:
            self.sigma_nm.append(sigma)
            self.frames_nm.append(noisy_nm[:1].cpu().numpy())
        return self._denoise(noisy_nm, sigma_nm)


def noise_levels(
    settings: SampleSettings, diffusion: DiffusionSettings, *, sigma_data_nm: float
) -> Float[Tensor, " levels"]:
    """Descending noise of a sampler: EDM's levels, or those of times evenly spaced (process: vp)."""
    if diffusion.process == "vp":
        return vp_sigma_nm(settings.steps, diffusion, sigma_data_nm=sigma_data_nm)
    return karras_sigma(
        settings.steps,
        sigma_min_nm=diffusion.sigma_min * sigma_data_nm,
        sigma_max_nm=diffusion.sigma_max * sigma_data_nm,
        rho=settings.rho,
    )


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
    sigma = noise_levels(settings, diffusion, sigma_data_nm=sigma_data_nm)
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
