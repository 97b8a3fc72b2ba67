"""Speeds at the sizes of config.yaml, each beside a plain way of doing the same in the same run: `make bench`.

    training   the five systems in one step, all threads           |  one conformer at a time, one thread
    optimiser  a step of Muon, one thread                          |  PyTorch's, in bfloat16
    compiled   the network with and without gradient, one thread   |  layers that are not compiled
    sampling   a batch of conformers at once                      |  one conformer at a time
    overhead   `snakemake` on a finished run                      |  `snakemake --version`
    scoring    by size of the molecule, a table of its own (`benchmarks/scoring.py`)

Prints a table; draws from fixed seeds. Some eight minutes on two cores.
"""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is loaded

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import torch
from scoring import table
from timing import options_of

from ancdiff.artifacts import read_ensemble
from ancdiff.config import Config, load_config
from ancdiff.denoiser.graph import molecule_graph
from ancdiff.denoiser.network import Denoiser
from ancdiff.denoising import Block, Conformers, denoising_blocks_loss, draw_blocks, split_blocks
from ancdiff.diffusion.noise import centre
from ancdiff.molecules import Ensemble
from ancdiff.muon import Muon
from ancdiff.origins import BUNDLED_MD
from ancdiff.sample import draw_conformers
from ancdiff.training import LossPart, gradients

REPOSITORY = Path(__file__).resolve().parent.parent


def rate(work: Callable[[], int], *, seconds: float) -> float:
    """Units of work per second: the best of three spans of a third of ``seconds``, after one call to warm up."""
    work()
    rates = []
    for _ in range(3):
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 3:
            done += work()
        rates.append(done / (time.perf_counter() - start))
    return max(rates)


def line(what: str, ours: float, baseline: float, unit: str, against: str) -> None:
    """One row of the table; the ratio says how many times better ours is."""
    ratio = baseline / ours if unit == "s" else ours / baseline
    print(f"{what:34s} {ours:10.3g} {unit:14s} {baseline:10.3g}  {against:48s} {ratio:8.1f} x", flush=True)


def training(config: Config, ensembles: dict[str, Ensemble], seconds: float) -> None:
    """Training steps per second, forward, backward and optimiser."""
    systems = [
        Conformers(name, molecule_graph(one.molecule), centre(torch.as_tensor(one.positions_nm)))
        for name, one in ensembles.items()
    ]
    torch.manual_seed(1)
    denoiser = Denoiser(config.denoiser, sigma_data_nm=0.2)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, foreach=True)
    blocks = draw_blocks(
        systems,
        config.pretrain.batch_size,
        config.diffusion,
        sigma_data_nm=0.2,
        generator=torch.Generator().manual_seed(1),
    )
    parameters = list(denoiser.parameters())
    conformers = sum(len(batch) for _, batch in blocks)

    def part(mine: Sequence[Block]) -> LossPart:
        return lambda model: (denoising_blocks_loss(model, mine, conformers=conformers), {})

    def step(parts: Sequence[Sequence[Block]], pool: ThreadPoolExecutor) -> int:
        """A step on the same conformers, in ``parts``."""
        gradients(denoiser, parameters, [part(mine) for mine in parts], pool)
        optimizer.step()
        return 1

    threads = os.cpu_count() or 1
    alone = [[(graph, one)] for graph, batch in blocks for one in batch.chunk(len(batch))]
    with ThreadPoolExecutor(threads) as all_threads, ThreadPoolExecutor(1) as one_thread:
        ours = rate(lambda: step(split_blocks(blocks, threads), all_threads), seconds=seconds)
        plain = rate(lambda: step(alone, one_thread), seconds=seconds)
    line(
        f"training, {len(systems)} systems, {threads} threads",
        ours,
        plain,
        "steps/s",
        "one conformer at a time, one thread",
    )


def optimiser(config: Config, seconds: float) -> None:
    """Steps of the optimiser alone, on the matrices of the network."""
    torch.manual_seed(1)
    linear = [m for m in Denoiser(config.denoiser, sigma_data_nm=0.2).modules() if isinstance(m, torch.nn.Linear)]
    matrices = [m.weight for m in linear]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    ours, theirs = Muon(matrices, lr=1e-4), torch.optim.Muon(matrices, lr=1e-4, adjust_lr_fn="match_rms_adamw")

    def steps_of(optimizer: torch.optim.Optimizer) -> Callable[[], int]:
        def step() -> int:
            optimizer.step()
            return 1

        return step

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here, there = (rate(steps_of(optimizer), seconds=seconds) for optimizer in (ours, theirs))
    torch.set_num_threads(threads)
    line(f"optimiser, {len(matrices)} matrices", here, there, "steps/s", "torch.optim.Muon (bfloat16)")


def compiled(config: Config, ensemble: Ensemble, seconds: float) -> None:
    """Conformers per second through the network, one thread; translating its layers first takes a minute."""
    torch.manual_seed(1)
    graph = molecule_graph(ensemble.molecule)
    settings = config.denoiser.model_copy(update={"compile": True})
    plain = Denoiser(settings, sigma_data_nm=0.2)
    ours = deepcopy(plain)
    ours.compile_layers()
    x = centre(torch.as_tensor(ensemble.positions_nm[:32]))
    sigma = torch.full((len(x),), 0.05)

    def with_gradient(denoiser: Denoiser) -> int:
        loss = denoiser.on(graph)(x, sigma).square().mean()
        torch.autograd.grad(loss, list(denoiser.parameters()), allow_unused=True)
        return len(x)

    def without(denoiser: Denoiser) -> int:
        with torch.no_grad():
            denoiser.on(graph)(x, sigma)
        return len(x)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for what, work in (("with its gradient", with_gradient), ("without", without)):
        here, there = (rate(lambda d=d, work=work: work(d), seconds=seconds) for d in (ours, plain))
        line(f"network, {what}, compiled", here, there, "conformers/s", "denoiser.compile: false")
    torch.set_num_threads(threads)


def sampling(config: Config, ensembles: dict[str, Ensemble], seconds: float) -> None:
    """Conformers per second, by the default solver and number of steps."""
    denoiser = Denoiser(config.denoiser, sigma_data_nm=0.2).eval().requires_grad_(False)
    for name in (next(iter(ensembles)), list(ensembles)[-1]):
        molecule = ensembles[name].molecule
        denoise = denoiser.on(molecule_graph(molecule))

        def draw(conformers: int, molecule=molecule, denoise=denoise) -> int:
            settings = config.sample.model_copy(update={"conformers": conformers, "batch_size": conformers})
            generator = torch.Generator().manual_seed(1)
            draw_conformers(
                denoise, molecule.n_atoms, settings, config.diffusion, sigma_data_nm=0.2, generator=generator
            )
            return conformers

        batch = min(config.sample.batch_size, 128)
        ours, plain = (rate(lambda n=n: draw(n), seconds=seconds) for n in (batch, 1))
        line(
            f"sampling {name}, {molecule.n_atoms} heavy atoms", ours, plain, "conformers/s", "batches of one conformer"
        )


def overhead() -> None:
    """Seconds of a run with nothing to do."""

    def seconds(*arguments: str, folder: Path) -> float:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "snakemake", *arguments]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("ancdiff", "workflow", "envs", "tests", "data", "Snakefile", "config.yaml"):
            (folder / name).symlink_to(REPOSITORY / name)
        run = ("--cores", "all", "--configfile", "tests/tiny.yaml")
        seconds(*run, folder=folder)
        ours = min(seconds(*run, folder=folder) for _ in range(3))
        plain = min(seconds("--version", folder=folder) for _ in range(3))
    line("overhead, finished run of 14 jobs", ours, plain, "s", "snakemake --version")


def main() -> None:
    options = options_of("Speeds beside baselines measured in the same run.", seconds=6.0)
    config = load_config(REPOSITORY / "config.yaml")
    files = {name: BUNDLED_MD / name / "training.dcd" for name in config.systems}
    ensembles = {name: read_ensemble(path, name=name) for name, path in files.items()}
    print(f"{'what':34s} {'here':>10s} {'unit':14s} {'baseline':>10s}  {'the baseline is':48s} {'better':>8s}")
    training(config, ensembles, options.seconds)
    optimiser(config, options.seconds)
    compiled(config, list(ensembles.values())[-1], options.seconds)
    sampling(config, ensembles, options.seconds)
    overhead()
    print()
    table()


if __name__ == "__main__":
    main()
