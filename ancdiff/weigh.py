"""Weighing: log-densities of given conformers under a model, by paths that noise them.

These are the scored frames of a system's training MD, which alignment weighs together with the model's samples. Their
paths are those of the samples (section `sample`), since both have to be weighed by one density.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ancdiff.artifacts import read_ensemble, read_table, write_json, write_table
from ancdiff.config import DiffusionSettings, SampleSettings, StageConfig
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.store import choose_device, load_denoiser
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.levels import noise_levels
from ancdiff.diffusion.noise import centre
from ancdiff.diffusion.paths import elastic_posteriors, path_log_density
from ancdiff.errors import StageError
from ancdiff.provenance import made_by

_MEASURED = 32  # conformers that show how far they lie from their denoised ones


def run(
    settings: StageConfig,
    *,
    model: Path,
    topology: Path,
    conformers: Path,
    energies: Path,
    output: Path,
    seed: int,
    threads: int,
) -> None:
    """Write the log-densities of those conformers of a trajectory that have an energy, and beside it what made it.

    Columns ``conformer``, ``log_density_nats`` (of the density per nm^d, d = 3(N − 1): the log of the mean ω of
    ``sample.log_density_probes`` paths) and ``standard_error_nats``, NaN, as in the table of samples. Draws from
    ``seed``.

    Raises:
        StageError: a log-density left the finite numbers.
    """
    torch.set_num_threads(threads)
    device = choose_device()
    denoiser, _ = load_denoiser(model)
    denoiser.to(device)
    denoiser.compile_layers()
    ensemble = read_ensemble(conformers, topology=topology)
    scored = read_table(energies)
    chosen = scored["conformer"][scored["status"] == "ok"].to_numpy(dtype=np.int64)
    nats = log_densities(
        denoiser.on(molecule_graph(ensemble.molecule).to(device)),
        centre(torch.as_tensor(ensemble.positions_nm[chosen])).to(device),
        settings.sample,
        settings.diffusion,
        sigma_data_nm=denoiser.sigma_data_nm,
        generator=torch.Generator(device).manual_seed(seed),
        title=f"weigh {ensemble.molecule.name}",
    )
    if not np.isfinite(nats).all():
        raise StageError(
            f"the log-densities of {int((~np.isfinite(nats)).sum())} conformers left the finite numbers",
            where=str(conformers),
            fix="train longer, or weigh with more steps (sample.steps)",
        )
    record = made_by("weigh", settings=settings.as_dict(), seed=seed, parents=[model, topology, conformers, energies])
    write_json(output.with_suffix(".json"), record)
    write_table(output, pd.DataFrame({"conformer": chosen, "log_density_nats": nats, "standard_error_nats": np.nan}))


def log_densities(
    denoise: Denoise,
    positions_nm: Float[Tensor, "conformers atoms 3"],
    settings: SampleSettings,
    diffusion: DiffusionSettings,
    *,
    sigma_data_nm: float,
    generator: torch.Generator,
    title: str = "weigh",
) -> Float[np.ndarray, " conformers"]:
    """The log of the mean ω of ``settings.log_density_probes`` paths that noise each centred conformer, nats.

    The kernels' posteriors come from a few of the conformers. Draws from ``generator``.
    """
    if len(positions_nm) == 0:
        return np.zeros(0)
    levels = noise_levels(settings, diffusion, sigma_data_nm=sigma_data_nm)
    few = positions_nm[:: max(1, len(positions_nm) // _MEASURED)][:_MEASURED]
    posteriors = elastic_posteriors(denoise, few, levels, generator=generator)
    found = []
    with tqdm(total=len(positions_nm), desc=title, unit="conformer", mininterval=2.0) as bar:
        for batch in positions_nm.split(settings.batch_size):
            density = path_log_density(
                denoise,
                batch,
                posteriors,
                eta=settings.eta,
                data_spread_nm=sigma_data_nm,
                paths=settings.log_density_probes,
                generator=generator,
            )
            found.append(density.cpu().numpy())
            bar.update(len(batch))
    return np.concatenate(found)
