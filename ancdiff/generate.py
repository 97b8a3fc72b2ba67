"""Generation: new compounds from a model, by reverse diffusion of positions and atom types together."""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ancdiff.compound_files import write_compounds, write_sdf
from ancdiff.compounds import ATOMIC_NUMBERS, Compounds, compounds_of
from ancdiff.config import DiffusionSettings, GenerateSettings, StageConfig
from ancdiff.denoiser.compounds import CHANNELS, CompoundDenoiser
from ancdiff.denoiser.store import choose_device, load_compound_denoiser
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.noise import karras_sigma, start_noise, state_noise
from ancdiff.diffusion.samplers import dpmpp_2m, heun, stochastic
from ancdiff.errors import StageError
from ancdiff.provenance import made_by

_NUMBERS = np.array(ATOMIC_NUMBERS, dtype=np.uint8)


def run(settings: StageConfig, *, model: Path, output: Path, seed: int, threads: int) -> None:
    """Generate ``generate.compounds`` compounds and write them as ``output``, and as SDF beside it.

    Raises:
        InputError: the model is missing, damaged or of another kind.
        StageError: the sampler left the finite numbers.
    """
    torch.set_num_threads(threads)
    device = choose_device()
    denoiser, described = load_compound_denoiser(model)
    denoiser.to(device)
    drawn = draw_compounds(
        denoiser,
        described["sizes"],
        settings.generate,
        settings.diffusion,
        generator=torch.Generator(device).manual_seed(seed),
    )
    record = made_by("generate", settings=settings.as_dict(), seed=seed, parents=[model])
    write_sdf(output.with_suffix(".sdf"), drawn, title="generated")
    write_compounds(output, drawn, record)


def draw_compounds(
    denoiser: CompoundDenoiser,
    sizes: dict[int, int],
    settings: GenerateSettings,
    diffusion: DiffusionSettings,
    *,
    generator: torch.Generator,
) -> Compounds:
    """Compounds whose numbers of atoms follow the counts in ``sizes``. Draws from ``generator``.

    They are drawn in blocks of one size, so that nothing is padded, and come back in the order of their sizes' draw.

    Raises:
        StageError: the sampler left the finite numbers.
    """
    listed = sorted(sizes)
    shares = torch.tensor([float(sizes[size]) for size in listed], device=generator.device)
    picked = torch.multinomial(shares, settings.compounds, replacement=True, generator=generator).cpu().numpy()
    members: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}
    with (
        torch.inference_mode(),
        tqdm(total=settings.compounds, desc="generate", unit="compound", mininterval=2.0) as bar,
    ):
        for index, atoms in enumerate(listed):
            places = np.flatnonzero(picked == index)
            for first in range(0, len(places), settings.batch_size):
                batch = places[first : first + settings.batch_size]
                states = draw_states(denoiser, len(batch), atoms, settings, diffusion, generator=generator)
                numbers = _NUMBERS[states[..., 3:].argmax(-1)]
                members |= {int(p): (int(p), numbers[i], states[i, :, :3]) for i, p in enumerate(batch)}
                bar.update(len(batch))
    return compounds_of(members[place] for place in range(settings.compounds))


def draw_states(
    denoiser: CompoundDenoiser,
    n: int,
    atoms: int,
    settings: GenerateSettings,
    diffusion: DiffusionSettings,
    *,
    generator: torch.Generator,
) -> np.ndarray:
    """``n`` states [n, atoms, channels] of so many atoms each, from noise. Draws from ``generator``."""
    spread = denoiser.sigma_data_nm
    sigma = karras_sigma(
        solver_steps(settings.solver, settings.evaluations),
        sigma_min_nm=diffusion.sigma_min * spread,
        sigma_max_nm=diffusion.sigma_max * spread,
        rho=settings.rho,
    )
    start = start_noise(
        (n, atoms, CHANNELS),
        sigma_max_nm=float(sigma[0]),
        data_spread_nm=spread,
        generator=generator,
        noise=state_noise,
    )
    denoise: Denoise = denoiser
    if settings.solver == "heun":
        states = heun(denoise, start, sigma)
    elif settings.solver == "dpmpp_2m":
        states = dpmpp_2m(denoise, start, sigma)
    elif settings.solver == "dpmpp_2m_sde":
        states = dpmpp_2m(denoise, start, sigma, eta=settings.eta, generator=generator, fresh_noise=state_noise)
    else:
        states = stochastic(denoise, start, sigma, churn=settings.churn, generator=generator, fresh_noise=state_noise)
    drawn = states.cpu().numpy()
    if not np.isfinite(drawn).all():
        raise StageError(
            "generation left the finite numbers",
            where=f"compounds of {atoms} atoms",
            fix="train longer, or allow more evaluations (generate.evaluations)",
        )
    return drawn


def solver_steps(solver: str, evaluations: int) -> int:
    """Steps of a solver that cost at most so many network evaluations (Heun's cost two, but for the last)."""
    return evaluations if solver.startswith("dpmpp_2m") else (evaluations + 1) // 2
