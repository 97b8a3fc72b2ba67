"""Weighing: log-densities of given conformers under a model, by paths that noise them.

These are scored frames of a system's training MD, which alignment weighs together with the model's samples. Their
paths are those of the samples, with the same settings (section `sample`) and the same kernels, which sampling kept:
both have to be weighed by one density. A rare basin has few frames in MD and matters as much as the others to the
weights of all, so that of more than ``weigh.max_md_conformers`` the same number is taken from each.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from ancdiff.artifacts import read_ensemble, read_json, read_table, write_json, write_table
from ancdiff.basins import basins_together
from ancdiff.config import SampleSettings, StageConfig
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.store import choose_device, load_denoiser
from ancdiff.diffusion import Denoise
from ancdiff.diffusion.noise import centre, spawned
from ancdiff.diffusion.paths import Posteriors, path_log_density
from ancdiff.errors import InputError, StageError
from ancdiff.molecules import evenly_spaced
from ancdiff.provenance import made_by
from ancdiff.threads import side_by_side


def run(
    settings: StageConfig,
    *,
    model: Path,
    posteriors: Path,
    topology: Path,
    conformers: Path,
    energies: Path,
    output: Path,
    seed: int,
    threads: int,
) -> None:
    """Write the log-densities of conformers of a trajectory that have an energy, and beside it what made it.

    Columns ``conformer``, ``log_density_nats`` (of the density per nm^d, d = 3(N − 1): the log of the mean ω of
    ``sample.log_density_probes`` paths) and ``standard_error_nats``, NaN, as in the table of samples. With
    ``weigh.max_md_conformers`` also ``share``: of the trajectory's conformers in the basins of this one, how many have
    a row. ``posteriors`` is what the stage `sample` kept of the model's paths. Draws from ``seed``.

    Raises:
        InputError: the posteriors are another molecule's, or the file holds none.
        StageError: a log-density left the finite numbers.
    """
    torch.set_num_threads(1)  # threads take whole batches
    device = choose_device()
    denoiser, _ = load_denoiser(model)
    denoiser.to(device)
    denoiser.compile_layers()
    ensemble = read_ensemble(conformers, topology=topology)
    kernels = _kernels(posteriors, ensemble.molecule.n_atoms)
    scored = read_table(energies)
    chosen = scored["conformer"][scored["status"] == "ok"].to_numpy(dtype=np.int64)
    more = {}
    if settings.weigh.max_md_conformers is not None:
        _, basins = np.unique(basins_together(ensemble), return_inverse=True)
        chosen = chosen[spread_evenly(basins[chosen], settings.weigh.max_md_conformers)]
        more["share"] = (np.bincount(basins[chosen], minlength=basins.max() + 1) / np.bincount(basins))[basins[chosen]]
    nats = log_densities(
        denoiser.on(molecule_graph(ensemble.molecule).to(device)),
        centre(torch.as_tensor(ensemble.positions_nm[chosen])).to(device),
        settings.sample,
        kernels,
        sigma_data_nm=denoiser.sigma_data_nm,
        generator=torch.Generator(device).manual_seed(seed),
        threads=threads if device.type == "cpu" else 1,
        title=f"weigh {ensemble.molecule.name}",
    )
    if not np.isfinite(nats).all():
        raise StageError(
            f"the log-densities of {int((~np.isfinite(nats)).sum())} conformers left the finite numbers",
            where=str(conformers),
            fix="train longer, or weigh with more steps (sample.steps)",
        )
    parents = [model, posteriors, topology, conformers, energies]
    write_json(output.with_suffix(".json"), made_by("weigh", settings=settings.as_dict(), seed=seed, parents=parents))
    table = {"conformer": chosen, "log_density_nats": nats, "standard_error_nats": np.nan, **more}
    write_table(output, pd.DataFrame(table))


def _kernels(path: Path, atoms: int) -> Posteriors:
    """The posteriors that sampling kept of a molecule of so many atoms."""
    fix = "give the posteriors.json that lies beside the model's samples of this molecule"
    kept = read_json(path)
    try:
        kernels = Posteriors.from_dict(kept)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("this file holds no posteriors", where=str(path), fix=fix) from error
    if len(kernels.stiffness) != atoms:
        what = f"these are posteriors of {len(kernels.stiffness)} atoms; the molecule has {atoms}"
        raise InputError(what, where=str(path), fix=fix)
    return kernels


def spread_evenly(basins: Int[np.ndarray, " frames"], wanted: int) -> Int[np.ndarray, " chosen"]:
    """Which of some frames are taken, in their order: from each basin as many, or all that it has; evenly spaced."""
    members = sorted((np.flatnonzero(basins == basin) for basin in np.unique(basins)), key=lambda m: (len(m), m[0]))
    taken, left = [], wanted
    for number, frames in enumerate(members):
        n = min(len(frames), left // (len(members) - number))  # what rare basins lack, the others get
        taken.append(frames[evenly_spaced(len(frames), n)])
        left -= n
    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, dtype=np.int64)


def log_densities(
    denoise: Denoise,
    positions_nm: Float[Tensor, "conformers atoms 3"],
    settings: SampleSettings,
    posteriors: Posteriors,
    *,
    sigma_data_nm: float,
    generator: torch.Generator,
    threads: int = 1,
    title: str = "weigh",
) -> Float[np.ndarray, " conformers"]:
    """The log of the mean ω of ``settings.log_density_probes`` paths that noise each centred conformer, nats.

    So many batches at once as ``threads``: each draws from a generator of its own. Draws their seeds from
    ``generator``.
    """
    if len(positions_nm) == 0:
        return np.zeros(0)

    def weighed(batch: tuple[Tensor, torch.Generator]) -> Tensor:
        return path_log_density(
            denoise,
            batch[0],
            posteriors,
            eta=settings.eta,
            data_spread_nm=sigma_data_nm,
            paths=settings.log_density_probes,
            generator=batch[1],
        )

    parts = positions_nm.split(settings.batch_size)
    batches = zip(parts, spawned(generator, len(parts)), strict=True)
    found = []
    with tqdm(total=len(positions_nm), desc=title, unit="conformer", mininterval=2.0) as bar:
        for density in side_by_side(weighed, batches, threads):
            found.append(density.cpu().numpy())
            bar.update(len(density))
    return np.concatenate(found)
