"""Sampling: conformers of one molecule from a model, by reverse diffusion."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ancdiff.artifacts import read_molecule, write_ensemble, write_json, write_table
from ancdiff.config import DiffusionSettings, SampleSettings, StageConfig
from ancdiff.corridor import LOG_DENSITIES, POSTERIORS
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.store import choose_device, load_denoiser
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.levels import noise_levels
from ancdiff.diffusion.likelihood import (
    density_step_error,
    exact_trace,
    flow,
    hutchinson_trace,
    no_trace,
    round_trip_error_nm,
    sample_with_log_density,
)
from ancdiff.diffusion.noise import centre, spawned, start_noise
from ancdiff.diffusion.paths import Posteriors, elastic_posteriors, path_log_density, sample_paths
from ancdiff.diffusion.samplers import dpmpp_2m, heun, stochastic
from ancdiff.errors import StageError
from ancdiff.molecules import Ensemble
from ancdiff.provenance import made_by
from ancdiff.threads import side_by_side

_CHECKED = 8  # conformers on which the steps' error is measured
_PILOT = SampleSettings(conformers=32, batch_size=32, solver="dpmpp_2m_sde", steps=60, eta=1.0)


def run(settings: StageConfig, *, model: Path, topology: Path, output: Path, seed: int, threads: int) -> None:
    """Draw ``sample.conformers`` conformers and write them as ``output`` (DCD) with ``topology.pdb`` beside it.

    One conformer's way from noise to shape goes to ``reverse.dcd`` beside them, its noise levels to the record.
    With ``sample.log_density`` also ``log_density.parquet``: one row for each conformer; of paths also
    ``posteriors.json``, by which other conformers can be weighed (`ancdiff.weigh`).

    Raises:
        StageError: the sampler, or a log-density, left the finite numbers.
    """
    device = choose_device()
    by_paths = settings.sample.solver == "ancestral"
    torch.set_num_threads(1 if by_paths else threads)  # threads take whole batches of paths
    denoiser, _ = load_denoiser(model)
    denoiser.to(device)
    if settings.sample.log_density in ("none", "path"):  # the others differentiate the layers
        denoiser.compile_layers()
    molecule = read_molecule(topology)
    denoise = denoiser.on(molecule_graph(molecule).to(device))
    way = ReversePath(denoise)
    diffusion = settings.diffusion
    asked: dict[str, Any] = {
        "sigma_data_nm": denoiser.sigma_data_nm,
        "generator": torch.Generator(device).manual_seed(seed),
        "title": f"sample {molecule.name}",
    }
    record = made_by("sample", settings=settings.as_dict(), seed=seed, parents=[model, topology])
    densities, kernels = output.parent / LOG_DENSITIES, output.parent / POSTERIORS
    # What an earlier run with other settings left would belong to other samples.
    if settings.sample.log_density != "path":
        kernels.unlink(missing_ok=True)
    if settings.sample.log_density == "none":
        densities.unlink(missing_ok=True)
    if by_paths:
        posteriors = path_posteriors(denoise, molecule.n_atoms, settings.sample, diffusion, **asked)
        weighed = settings.sample.log_density == "path"
        positions, table = draw_with_path_density(
            denoise,
            molecule.n_atoms,
            settings.sample,
            **asked,
            posteriors=posteriors,
            paths=settings.sample.log_density_probes if weighed else 1,
            first=way,
            threads=threads if device.type == "cpu" else 1,
        )
        if weighed:
            write_json(kernels, posteriors.as_dict())
            write_table(densities, table)
        last = positions[:1]
    elif settings.sample.log_density == "none":
        positions = draw_conformers(way, molecule.n_atoms, settings.sample, diffusion, **asked)
        last = positions[:1]
    else:
        probes = torch.Generator(device).manual_seed(seed + 1)  # so that the samples do not depend on the trace
        positions, table = draw_with_log_density(
            denoise, molecule.n_atoms, settings.sample, diffusion, **asked, probes=probes
        )
        few = centre(torch.as_tensor(positions[:_CHECKED])).to(device)
        levels = _levels(settings.sample, diffusion, denoiser.sigma_data_nm)
        record["log_density"] = step_errors(
            denoise,
            few,
            levels,
            exact=settings.sample.log_density == "exact",
            sigma_data_nm=denoiser.sigma_data_nm,
        )
        write_table(densities, table)
        # Traces differentiate the denoiser and cannot be looked at meanwhile: one more conformer shows the way.
        one = settings.sample.model_copy(update={"conformers": 1})
        last = draw_conformers(way, molecule.n_atoms, one, diffusion, **asked)
    record["reverse_sigma_nm"] = [*way.sigma_nm, 0.0]
    write_ensemble(output.with_name("reverse.dcd"), Ensemble(molecule, np.concatenate([*way.frames_nm, last])))
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
    if settings.solver == "ancestral":
        asked: dict[str, Any] = {"sigma_data_nm": sigma_data_nm, "generator": generator, "title": title}
        posteriors = path_posteriors(denoise, n_atoms, settings, diffusion, **asked)
        return draw_with_path_density(denoise, n_atoms, settings, **asked, posteriors=posteriors, paths=1)[0]
    sigma = noise_levels(settings, diffusion, sigma_data_nm=sigma_data_nm)
    drawn = []
    with torch.no_grad():
        for start in _starts(n_atoms, settings, float(sigma[0]), sigma_data_nm, generator, title):
            if settings.solver == "rk4":
                batch = flow(denoise, start, sigma[:-1], trace=no_trace, order=4).positions_nm
            elif settings.solver == "heun":
                batch = heun(denoise, start, sigma)
            elif settings.solver == "dpmpp_2m":
                batch = dpmpp_2m(denoise, start, sigma)
            elif settings.solver == "dpmpp_2m_sde":
                batch = dpmpp_2m(denoise, start, sigma, eta=settings.eta, generator=generator)
            else:
                batch = stochastic(denoise, start, sigma, churn=settings.churn, generator=generator)
            drawn.append(batch.cpu())
    return _finite(torch.cat(drawn).numpy(), title)


def _starts(
    n_atoms: int,
    settings: SampleSettings,
    sigma_max_nm: float,
    sigma_data_nm: float,
    generator: torch.Generator,
    title: str,
) -> Iterator[Float[Tensor, "batch atoms 3"]]:
    """Where sampling starts, batch after batch, with a progress bar. Draws from ``generator``."""
    with tqdm(total=settings.conformers, desc=title, unit="conformer", mininterval=2.0) as bar:
        for n in _batch_sizes(settings):
            shape = (n, n_atoms, 3)
            yield start_noise(shape, sigma_max_nm=sigma_max_nm, data_spread_nm=sigma_data_nm, generator=generator)
            bar.update(n)


def _batch_sizes(settings: SampleSettings) -> list[int]:
    """How many conformers each batch has: the last one has what is left."""
    starts = range(0, settings.conformers, settings.batch_size)
    return [min(settings.batch_size, settings.conformers - start) for start in starts]


def draw_with_log_density(
    denoise: Denoise,
    n_atoms: int,
    settings: SampleSettings,
    diffusion: DiffusionSettings,
    *,
    sigma_data_nm: float,
    generator: torch.Generator,
    probes: torch.Generator,
    title: str = "sample",
) -> tuple[Float[np.ndarray, "conformers atoms 3"], pd.DataFrame]:
    """As `draw_conformers` with ``solver: rk4``, the same conformers, and the log-density of each, along the same way.

    Columns ``conformer``, ``log_density_nats`` (of the density per nm^d, d = 3(N − 1), of samples at the lowest noise
    level) and ``standard_error_nats`` (of the estimated trace; 0 where it is exact). Draws from ``generator``, and from
    ``probes`` for ``log_density: hutchinson``.

    Raises:
        StageError: the sampler or a log-density left the finite numbers.
    """
    sigma = _levels(settings, diffusion, sigma_data_nm)
    exact = settings.log_density == "exact"
    trace = exact_trace() if exact else hutchinson_trace(settings.log_density_probes, generator=probes)
    drawn, parts = [], []
    for start in _starts(n_atoms, settings, float(sigma[0]), sigma_data_nm, generator, title):
        batch, density = sample_with_log_density(
            denoise, start, sigma, trace=trace, order=4, data_spread_nm=sigma_data_nm
        )
        drawn.append(batch.cpu())
        parts.append(torch.stack([density.nats, density.standard_error]).cpu())
    nats, error = torch.cat(parts, dim=1).numpy()
    return _with_densities(drawn, nats, error, title)


def path_posteriors(
    denoise: Denoise,
    n_atoms: int,
    settings: SampleSettings,
    diffusion: DiffusionSettings,
    *,
    sigma_data_nm: float,
    generator: torch.Generator,
    title: str = "sample",
) -> Posteriors:
    """Posteriors at the sampler's levels, from a few own samples. Draws from ``generator``."""
    asked: dict[str, Any] = {"sigma_data_nm": sigma_data_nm, "generator": generator}
    pilot = draw_conformers(denoise, n_atoms, _PILOT, diffusion, **asked, title=f"{title}: pilot")
    sigma = noise_levels(settings, diffusion, sigma_data_nm=sigma_data_nm)
    return elastic_posteriors(denoise, centre(torch.as_tensor(pilot)).to(generator.device), sigma, generator=generator)


def draw_with_path_density(
    denoise: Denoise,
    n_atoms: int,
    settings: SampleSettings,
    *,
    sigma_data_nm: float,
    generator: torch.Generator,
    posteriors: Posteriors,
    paths: int,
    first: Denoise | None = None,
    threads: int = 1,
    title: str = "sample",
) -> tuple[Float[np.ndarray, "conformers atoms 3"], pd.DataFrame]:
    """As `draw_conformers` with ``solver: ancestral``, the same conformers, and the log of the mean ω of their paths.

    Beside the path that drew it a conformer x has K − 1 others that noise it, K = ``paths``. The law of all of them is
    (1/K) Σ_k ω_k times that of K paths which noise x, so that weights by the mean reweight as exactly as those by one
    path and scatter less (`ancdiff.diffusion.paths`). The table's columns are those of `draw_with_log_density`,
    with ln((1/K) Σ_k ω_k) for the log-density; ``standard_error_nats`` means nothing here and is NaN. ``posteriors``
    are those of `path_posteriors`. ``first`` is the denoiser of the first batch's own paths, for one that looks on.

    So many batches at once as ``threads``: each draws from generators of its own. Draws their seeds from ``generator``.

    Raises:
        StageError: the sampler left the finite numbers.
    """
    sigma_max_nm = float(posteriors.sigma_nm[0])
    kinds: dict[str, Any] = {"eta": settings.eta, "data_spread_nm": sigma_data_nm}

    def draw(drawn_by: Denoise, size: int, own: torch.Generator, others: torch.Generator) -> tuple[Tensor, Tensor]:
        """One batch, and the log of each mean ω."""
        shape = (size, n_atoms, 3)
        start = start_noise(shape, sigma_max_nm=sigma_max_nm, data_spread_nm=sigma_data_nm, generator=own)
        batch, log_omega = sample_paths(drawn_by, start, posteriors, **kinds, generator=own)
        if paths > 1:
            rest = path_log_density(denoise, batch, posteriors, **kinds, paths=paths - 1, generator=others)
            log_omega = torch.logaddexp(log_omega, rest + math.log(paths - 1)) - math.log(paths)
        return batch.cpu(), log_omega.cpu()

    sizes = _batch_sizes(settings)
    denoisers = [first or denoise] + [denoise] * (len(sizes) - 1)
    # The samples do not depend on how many paths weigh them.
    own, others = spawned(generator, len(sizes)), spawned(generator, len(sizes))
    batches = list(zip(denoisers, sizes, own, others, strict=True))
    drawn, parts = [], []
    with tqdm(total=settings.conformers, desc=title, unit="conformer", mininterval=2.0) as bar:
        for batch, log_omega in side_by_side(lambda one: draw(*one), batches, threads):
            drawn.append(batch)
            parts.append(log_omega)
            bar.update(len(batch))
    nats = torch.cat(parts).numpy()
    return _with_densities(drawn, nats, np.full_like(nats, np.nan), title)


def _with_densities(
    drawn: list[Tensor],
    nats: Float[np.ndarray, " conformers"],
    error: Float[np.ndarray, " conformers"],
    title: str,
) -> tuple[Float[np.ndarray, "conformers atoms 3"], pd.DataFrame]:
    """Samples from batches of them, and the table of their log-densities."""
    table = {"conformer": np.arange(len(nats)), "log_density_nats": _finite(nats, title), "standard_error_nats": error}
    return _finite(torch.cat(drawn).numpy(), title), pd.DataFrame(table)


def step_errors(
    denoise: Denoise,
    positions_nm: Float[Tensor, "conformers atoms 3"],
    levels_nm: Float[Tensor, " levels"],
    *,
    exact: bool,
    sigma_data_nm: float,
) -> dict[str, float | None]:
    """What the steps of the ODE cost, from a few samples: RMS nats (None with estimated traces) and nm."""
    rising = levels_nm.flip(0)
    error_nats = None
    if exact:
        error_nats = density_step_error(denoise, positions_nm, rising, order=4, data_spread_nm=sigma_data_nm)
    return {
        "step_error_nats": error_nats,
        "round_trip_error_nm": round_trip_error_nm(denoise, positions_nm, rising, order=4),
    }


def _levels(settings: SampleSettings, diffusion: DiffusionSettings, sigma_data_nm: float) -> Float[Tensor, " levels"]:
    """Falling noise levels, the last one above 0."""
    return noise_levels(settings, diffusion, sigma_data_nm=sigma_data_nm)[:-1]


def _finite(values: np.ndarray, title: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise StageError(
            "sampling left the finite numbers",
            where=title,
            fix="train longer, or sample with more steps (sample.steps)",
        )
    return values
