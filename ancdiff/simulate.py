"""The simulate stage: molecular dynamics of a system that is given as a sequence, or the data of one of particles.

*training* MD is many short replicas from chosen basins, so that each basin is seen and its population is wrong, as it
is in a short trajectory of a protein. *reference* MD is temperature replica exchange, repeated independently.
Heavy atoms are kept, or all with free bonds to hydrogen, in nm, in the order of the topology beside the trajectory.

Points come from their law, once to learn from and as many held out. Exact systems are sampled by parallel tempering:
the reference, and apart from it training data that may have other populations or another temperature.

Small molecules are embedded and relaxed: a set of conformers to learn from, and as reference two further sets that
know nothing of it or of each other.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ancdiff.artifacts import read_json, write_atomically, write_ensemble, write_table, write_topology
from ancdiff.basins import BASINS
from ancdiff.chemistry import plain_smiles
from ancdiff.config import ForcefieldSettings, SimulateSettings, StageConfig
from ancdiff.corridor import MD_ENSEMBLES, Layout
from ancdiff.dataset.conformers import read_graph
from ancdiff.errors import ConfigError, InputError
from ancdiff.forcefield.build import Peptide, build_peptide, start_structure
from ancdiff.forcefield.conformers import make_conformers, settled
from ancdiff.forcefield.dynamics import Engine, Thermostat, Walkers, run_exchange, run_langevin
from ancdiff.forcefield.system import create_system
from ancdiff.forcefield.topology import select_atoms
from ancdiff.molecules import Ensemble
from ancdiff.origins import BUNDLED_MD, is_particles, is_simulated
from ancdiff.particles import molecule_of_settings
from ancdiff.particles.data import exact_data, point_data
from ancdiff.provenance import code_stamp, file_sha256, made_by
from ancdiff.units import PICOSECONDS_PER_NS

CHECKSUMS = "SHA256SUMS"
_SEGMENT_PS = 50.0
_POLL_SECONDS = 0.5
_CONFORMER_SETS = {"training": 1, "reference": 2}


def run(settings: StageConfig, *, system: str, md: str, results: Path, threads: int = 1) -> None:
    """Write ``simulate/<system>/<md>.dcd``, its record, its table of frames and ``topology.pdb``.

    Repeats of a peptide's reference run side by side in ``threads`` processes; what they give does not depend on it.

    Reads sections run, systems, forcefield, simulate. Draws random numbers from ``simulate.seed``, the system's name
    and the replica's number; on the Reference platform two runs give the same frames. A run that was killed goes on
    from its last finished replica or segment.

    Raises:
        ConfigError: the system is not one that can be simulated, or the bundled data were made with other settings.
        InputError: the bundled data are not there or damaged.
        StageError: the dynamics blew up.
    """
    if md not in MD_ENSEMBLES:
        raise ConfigError(f"there is no MD data set '{md}'", where="--md", fix=f"one of: {', '.join(MD_ENSEMBLES)}")
    if system not in settings.systems or not is_simulated(settings.systems[system]):
        simulated = [name for name, one in settings.systems.items() if is_simulated(one)]
        raise ConfigError(
            f"system '{system}' is not given as a sequence, points, a potential or conformers: nothing to simulate",
            where="systems",
            fix=f"give one of: {', '.join(simulated) or '(none)'}; or write  {system}: {{sequence: ACE-ALA-NME}}",
        )
    output = Layout(results).simulated(system, md)
    if is_particles(settings.systems[system]):
        _simulate_particles(settings, system, md, output)
        return
    if settings.systems[system].conformers is not None:
        _embed_conformers(settings, system, md, output)
        return
    wanted = md_settings(settings, system, md)
    if settings.simulate.source == "bundled":
        _copy_bundled(BUNDLED_MD, output, wanted, system=system, md=md)
        return
    peptide = build_peptide(system, settings.systems[system].sequence, settings.forcefield)
    key = _hash(json.dumps(wanted, sort_keys=True) + code_stamp("ancdiff.simulate"))[:16]
    work = output.parent / f".{md}-{key}"
    job = _Job(settings, system, peptide, work, _SEGMENT_PS)
    produced = _training(job) if md == "training" else _reference(job, threads)
    record = made_by("simulate", settings=settings.as_dict(), seed=settings.simulate.seed)
    record |= {"md": wanted, "frames": len(produced.table), **produced.notes}
    molecule = select_atoms(peptide.molecule, job.kept)
    write_table(output.with_suffix(".parquet"), produced.table)
    write_ensemble(output, Ensemble(molecule, produced.positions_nm), record)
    # Both data sets share this file: the built structure, which does not depend on which of them came last.
    write_topology(output.parent / "topology.pdb", molecule, peptide.positions_nm[job.kept])
    for old in output.parent.glob(f".{md}-*"):
        shutil.rmtree(old, ignore_errors=True)


def _simulate_particles(settings: StageConfig, system: str, md: str, output: Path) -> None:
    """Write the data of a system of particles, as `run` does. Seconds to minutes; not resumed."""
    one, simulate = settings.systems[system], settings.simulate
    if one.points is not None:
        seed = one.points.seed
        made = point_data(one.points, np.random.default_rng(derived_seed(seed, system, md)))
    else:
        seed, kelvin = simulate.seed, settings.forcefield.temperature_kelvin
        rng = np.random.default_rng(derived_seed(seed, system, md))
        made = exact_data(one.exact, simulate.tempering, md, rng, temperature_kelvin=kelvin, system=system)
    record = made_by("simulate", settings=settings.as_dict(), seed=seed) | {"frames": len(made.table)} | made.notes
    write_table(output.with_suffix(".parquet"), made.table)
    write_ensemble(output, Ensemble(molecule_of_settings(system, one), made.positions_nm), record)


def _embed_conformers(settings: StageConfig, system: str, md: str, output: Path) -> None:
    """Write the conformers of a small molecule, as `run` does, in random order. Seconds to minutes; not resumed."""
    seed = settings.simulate.seed
    graph = read_graph(settings.systems[system].conformers, where=f"systems.{system}")
    molecule, example_nm = settled(graph, system, seed=derived_seed(seed, system, "hands"))
    wanted = settings.simulate.conformers
    parts, tables, counts = [], [], []
    for repeat in range(_CONFORMER_SETS[md]):
        seed_of_set = derived_seed(seed, system, md, repeat)
        made = make_conformers(molecule, example_nm, settings.forcefield, wanted, seed=seed_of_set)
        rng = np.random.default_rng(derived_seed(seed, system, md, repeat, "order"))
        order = rng.permutation(len(made.positions_nm))
        parts.append(made.positions_nm[order].astype(np.float32))
        tables.append(made.energies_kj_mol[order])
        counts.append(made.counts)
    frames = _frame_table(parts, 1.0).assign(energy_kj_mol=np.concatenate(tables))
    record = made_by("simulate", settings=settings.as_dict(), seed=seed)
    record |= {"frames": len(frames), "smiles": plain_smiles(graph), "sets": counts}
    write_table(output.with_suffix(".parquet"), frames)
    write_ensemble(output, Ensemble(molecule, np.concatenate(parts)), record)
    write_topology(output.parent / "topology.pdb", molecule, example_nm)


def md_settings(settings: StageConfig, system: str, md: str) -> dict[str, Any]:
    """All settings that the frames of one MD data set depend on, and no other."""
    one, simulate = settings.systems[system], settings.simulate.model_dump(mode="json")
    wanted = {
        "system": system,
        "sequence": one.sequence,
        **{key: getattr(settings.forcefield, key) for key in ("protein", "solvent", "temperature_kelvin")},
        **_unusual(settings.forcefield, "xml", "cutoff_nm", "ph", "histidine"),
        **_unusual(settings.simulate, "atoms"),
        **{key: simulate[key] for key in ("seed", "timestep_fs", "hydrogen_mass_amu", "friction_per_ps")},
        md: simulate[md],
    }
    if md == "training":
        wanted["training_basins"] = basin_shares(one.training_basins)
    elif one.reference_ns is not None:
        wanted[md] = wanted[md] | {"replica_ns": one.reference_ns}
    return wanted


def _unusual(section: ForcefieldSettings | SimulateSettings, *keys: str) -> dict[str, Any]:
    """Those of a section's settings that are not at their defaults: bundled MD of before there were any stays good."""
    given, usual = (one.model_dump(mode="json", include=set(keys)) for one in (section, type(section)()))
    return {key: given[key] for key in keys if given[key] != usual[key]}


def basin_shares(shares: dict[str, float]) -> dict[str, float]:
    """Shares of all basins, summing to 1; equal ones where none are given."""
    given = {basin: float(shares.get(basin, 0.0)) for basin in BASINS} if shares else dict.fromkeys(BASINS, 1.0)
    total = sum(given.values())
    return {basin: share / total for basin, share in given.items()}


def derived_seed(*parts: object) -> int:
    """Seed below 2³¹ and above 0 from names and numbers: the first four bytes of their SHA-256."""
    return 1 + int(_hash("/".join(map(str, parts)))[:8], 16) % (2**31 - 2)


@dataclass(frozen=True, eq=False)
class _Job:
    settings: StageConfig
    system: str
    peptide: Peptide
    work: Path
    segment_ps: float  # the most that a killed run does again

    @property
    def thermostat(self) -> Thermostat:
        simulate = self.settings.simulate
        return Thermostat(simulate.timestep_fs, simulate.friction_per_ps, self.settings.forcefield.platform)

    @property
    def kept(self) -> np.ndarray:
        """Atoms that the frames have."""
        every = np.arange(self.peptide.molecule.n_atoms)
        return every if self.settings.simulate.atoms == "all" else self.peptide.heavy

    def seed(self, *parts: object) -> int:
        return derived_seed(self.settings.simulate.seed, self.system, *parts)

    def engine(self, *parts: object) -> Engine:
        system = create_system(
            self.peptide.topology,
            self.settings.forcefield,
            constrain_hydrogens=self.settings.simulate.atoms == "heavy",
            hydrogen_mass_amu=self.settings.simulate.hydrogen_mass_amu,
        )
        return Engine(system, self.thermostat, seed=self.seed("noise", *parts))


@dataclass(frozen=True, eq=False)
class _Produced:
    positions_nm: np.ndarray
    table: pd.DataFrame
    notes: dict[str, Any]


def _training(job: _Job) -> _Produced:
    """Short replicas, each started in basins drawn by the system's shares."""
    training, residues = job.settings.simulate.training, job.peptide.molecule.ramachandran_residues()
    shares = basin_shares(job.settings.systems[job.system].training_basins)

    def replica(number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(job.seed("start", "training", number))
        basins = rng.choice(len(BASINS), p=list(shares.values()), size=len(residues))
        start = start_structure(job.peptide, job.settings.forcefield, [BASINS[b] for b in basins], rng)
        frames = run_langevin(
            job.engine("training", number),
            start,
            job.thermostat,
            temperature_kelvin=job.settings.forcefield.temperature_kelvin,
            equilibration_ps=training.equilibration_ps,
            length_ps=training.replica_ps,
            frame_interval_ps=training.frame_interval_ps,
            velocity_seed=job.seed("velocity", "training", number),
        )
        return {"frames": frames[:, job.kept].astype(np.float32)}

    parts = []
    for number in tqdm(
        range(training.replicas), desc=f"{job.system} training", unit="replica", file=sys.stderr, mininterval=1.0
    ):
        parts.append(_kept(job.work / f"replica_{number:04d}.npz", lambda n=number: replica(n))["frames"])
    return _Produced(np.concatenate(parts), _frame_table(parts, training.frame_interval_ps), {})


def _reference(job: _Job, threads: int) -> _Produced:
    """Replica exchange repeated from different basins; the frames of the lowest temperature."""
    reference = job.settings.simulate.reference
    segments = _reference_segments(job)
    total_ps = reference.repeats * sum(span_ps for span_ps, _ in segments)
    parts, tried, taken = [], 0, 0
    with tqdm(
        total=round(total_ps), desc=f"{job.system} reference", unit="ps", file=sys.stderr, mininterval=1.0
    ) as progress:
        if min(threads, reference.repeats) > 1:
            _side_by_side(job, threads, progress)
            progress.reset()
        for repeat in range(reference.repeats):
            part = []
            for (span_ps, keep), done in zip(segments, _repeat(job, repeat), strict=True):
                tried, taken = tried + done["tried"], taken + done["taken"]
                if keep:
                    part.append(done["frames"])
                progress.update(round(span_ps))
            parts.append(np.concatenate(part))
    acceptance = [float(x) for x in np.round(taken / np.maximum(tried, 1), 3)][:-1]
    return _Produced(
        np.concatenate(parts), _frame_table(parts, reference.frame_interval_ps), {"exchange_acceptance": acceptance}
    )


def _reference_segments(job: _Job) -> list[tuple[float, bool]]:
    """Lengths of the segments of one repeat, ps, and whether their frames are kept."""
    reference = job.settings.simulate.reference
    length_ps = (job.settings.systems[job.system].reference_ns or reference.replica_ns) * PICOSECONDS_PER_NS
    equilibration_ps = reference.equilibration_ns * PICOSECONDS_PER_NS
    segments = _segments(equilibration_ps, reference.frame_interval_ps, job.segment_ps, keep=False)
    return segments + _segments(length_ps, reference.frame_interval_ps, job.segment_ps, keep=True)


def _segment_file(job: _Job, repeat: int, number: int) -> Path:
    return job.work / f"repeat_{repeat:02d}_{number:05d}.npz"


def _repeat(job: _Job, repeat: int) -> Iterator[dict[str, np.ndarray]]:
    """The segments of one repeat, one after the other; those that are not yet in the work folder are made."""
    walkers = None
    for number, (span_ps, _) in enumerate(_reference_segments(job)):
        done = _kept(_segment_file(job, repeat, number), _segment_maker(job, repeat, number, span_ps, walkers))
        yield done
        walkers = Walkers(done["positions"], done["velocities"])


def _side_by_side(job: _Job, threads: int, progress: tqdm) -> None:
    """Make the segments of all repeats, so many repeats at once. What a process leaves undone is not made here.

    Processes, since all integrators of OpenMM's Reference platform draw from one generator. One that fails ends the
    others: its error comes from the segment that it was at, when that is made again.
    """
    context = multiprocessing.get_context("spawn")
    repeats = list(range(job.settings.simulate.reference.repeats))
    spans = {
        _segment_file(job, repeat, number): span_ps
        for repeat in repeats
        for number, (span_ps, _) in enumerate(_reference_segments(job))
    }
    workers: list[Any] = []
    try:
        while repeats or any(worker.is_alive() for worker in workers):
            while repeats and sum(worker.is_alive() for worker in workers) < threads:
                given = (job.settings.as_dict(), job.system, job.work, job.segment_ps, repeats.pop(0), os.getpid())
                workers.append(context.Process(target=_make_repeat, args=given, daemon=True))
                workers[-1].start()
            if any(worker.exitcode for worker in workers):  # neither None, running, nor 0, done
                return
            time.sleep(_POLL_SECONDS)
            made = sum(span_ps for path, span_ps in spans.items() if path.is_file())
            progress.update(round(made) - progress.n)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _make_repeat(
    settings: dict[str, Any], system: str, work: Path, segment_ps: float, repeat: int, parent: int
) -> None:
    """One repeat in a process of its own, until its parent is gone."""
    config = StageConfig(settings)
    peptide = build_peptide(system, config.systems[system].sequence, config.forcefield)
    for _ in _repeat(_Job(config, system, peptide, work, segment_ps), repeat):
        if os.getppid() != parent:
            return


def _segment_maker(
    job: _Job, repeat: int, number: int, span_ps: float, walkers: Walkers | None
) -> Callable[[], dict[str, np.ndarray]]:
    """What runs one segment: a function of the walkers that the one before left."""
    reference = job.settings.simulate.reference
    ladder = temperature_ladder(job.settings.forcefield.temperature_kelvin, reference.hotter_kelvin)

    def make() -> dict[str, np.ndarray]:
        engine = job.engine("reference", repeat, number)
        segment = run_exchange(
            engine,
            walkers or _first_walkers(job, engine, repeat, ladder),
            job.thermostat,
            ladder,
            exchange_interval_ps=reference.exchange_interval_ps,
            exchanges=max(1, round(span_ps / reference.exchange_interval_ps)),
            exchanges_per_frame=max(1, round(reference.frame_interval_ps / reference.exchange_interval_ps)),
            rng=np.random.default_rng(job.seed("exchange", repeat, number)),
        )
        return {
            "frames": segment.frames_nm[:, job.kept].astype(np.float32),
            "positions": segment.walkers.positions_nm,
            "velocities": segment.walkers.velocities_nm_ps,
            "tried": segment.tried,
            "taken": segment.taken,
        }

    return make


def _first_walkers(job: _Job, engine: Engine, repeat: int, ladder: tuple[float, ...]) -> Walkers:
    """All walkers of a repeat start in one basin, another for each repeat."""
    residues = job.peptide.molecule.ramachandran_residues()
    rng = np.random.default_rng(job.seed("start", "reference", repeat))
    start = start_structure(job.peptide, job.settings.forcefield, [BASINS[repeat % len(BASINS)]] * len(residues), rng)
    seeds = [job.seed("velocity", "reference", repeat, k) for k in range(len(ladder))]
    points = [engine.thermalise(start, kelvin, seed) for kelvin, seed in zip(ladder, seeds, strict=True)]
    return Walkers(np.array([p for p, _ in points]), np.array([v for _, v in points]))


def temperature_ladder(lowest_kelvin: float, hotter_kelvin: tuple[float, ...]) -> tuple[float, ...]:
    """Temperatures of the walkers, rising.

    Raises:
        ConfigError: they do not rise.
    """
    ladder = (lowest_kelvin, *hotter_kelvin)
    if any(hot <= cold for cold, hot in pairwise(ladder)):
        raise ConfigError(
            f"the temperatures {ladder} of the reference walkers do not rise",
            where="simulate.reference.hotter_kelvin",
            fix="list rising temperatures above forcefield.temperature_kelvin, e.g. [400.0, 530.0]",
        )
    return ladder


def _segments(span_ps: float, frame_interval_ps: float, longest_ps: float, *, keep: bool) -> list[tuple[float, bool]]:
    """A span, to the nearest frame, in segments of whole frames: their lengths, and whether frames are kept."""
    frames, longest = round(span_ps / frame_interval_ps), max(1, round(longest_ps / frame_interval_ps))
    counts = [longest] * (frames // longest) + ([frames % longest] if frames % longest else [])
    return [(count * frame_interval_ps, keep) for count in counts]


def _kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from a file of the work folder, made and kept there if it is not yet."""
    if not path.is_file():
        made = make()
        write_atomically(path, lambda temporary: np.savez(temporary, allow_pickle=False, **made))
        return made
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _frame_table(parts: list[np.ndarray], interval_ps: float) -> pd.DataFrame:
    """Frame number, replica, and time since the end of the equilibration, of each frame."""
    counts = [len(part) for part in parts]
    return pd.DataFrame(
        {
            "frame": np.arange(sum(counts), dtype=np.int64),
            "replica": np.repeat(np.arange(len(parts), dtype=np.int64), counts),
            "time_ps": np.concatenate([(1 + np.arange(count)) * interval_ps for count in counts]),
        }
    )


def _copy_bundled(bundle: Path, output: Path, wanted: dict[str, Any], *, system: str, md: str) -> None:
    """Copy an MD data set of the repository after checking that it is whole and of these settings."""
    own = "set simulate.source: run to make the data (minutes to hours of one core)"
    source = bundle / system / f"{md}.dcd"
    if not source.is_file():
        raise InputError(f"there is no bundled {md} MD of system '{system}'", where=str(source), fix=own)
    record = read_json(source.with_suffix(".json"))
    different = _differences(record.get("md", {}), wanted)
    if different:
        raise ConfigError(
            f"the bundled {md} MD of system '{system}' was made with other settings:\n" + "\n".join(different),
            where=str(source),
            fix=own,
        )
    files = [source.parent / "topology.pdb", source.with_suffix(".parquet"), source.with_suffix(".json"), source]
    for path in files:
        _check_sum(bundle, path)
    for path in files:
        write_atomically(output.parent / path.name, lambda to, path=path: shutil.copyfile(path, to) and None)


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines that say which settings differ."""
    lines = []
    for key in sorted(found.keys() | wanted.keys()):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"    {prefix}{key}: bundled {a}, here {b}")
    return lines


def _check_sum(bundle: Path, path: Path) -> None:
    sums = {}
    if (bundle / CHECKSUMS).is_file():
        lines = (bundle / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line.strip())}
    if sums.get(path.relative_to(bundle).as_posix()) != file_sha256(path):
        raise InputError(
            f"the bundled file {path.name} is not the one that {CHECKSUMS} lists",
            where=str(path),
            fix="take it from the repository again (git checkout -- data/peptides), or set simulate.source: run",
        )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
