"""Scoring by size of the molecule, beside the plain way of doing it: `make bench`, or python benchmarks/scoring.py.

    energy     one energy of an all-atom conformer
    full path  hydrogens placed and relaxed about fixed heavy atoms, energies by parts, checks (the default settings)
    plain way  for each conformer PDBFixer, a new System (implicit/obc2.xml: CustomGBForce) and a new Context
    job        `ancdiff score` of one conformer of the smallest molecule, and of that molecule five times in one job

The molecules are extended chains built here. Times are CPU seconds of the process on one thread, so that what else
runs on the machine hardly counts; where a conformer takes long it is measured once. Under a minute of CPU.
"""

import argparse
import cProfile
import io
import os

os.environ.setdefault("TQDM_DISABLE", "1")

import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import forget_peak_memory, peak_memory_mib

from ancdiff.artifacts import write_ensemble
from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.forcefield.build import build_peptide
from ancdiff.forcefield.completion import complete
from ancdiff.forcefield.energies import Scorer
from ancdiff.forcefield.prepare import missing_atoms
from ancdiff.forcefield.surrogate import Surrogate
from ancdiff.forcefield.template import make_template
from ancdiff.forcefield.topology import select_atoms
from ancdiff.molecules import Ensemble, Molecule, natural_stereocentres

FORCEFIELD, SCORE = ForcefieldSettings(), ScoreSettings()
# Residues of the chains, and whether the plain way is measured too.
SIZES = ((9, True), (34, True), (60, True), (128, False))
_SEQUENCE = ("ALA", "LYS", "GLU", "LEU", "ALA", "GLN", "SER", "ARG", "ALA", "MET", "ASN", "GLY")
_PHI, _PSI, _OMEGA = np.radians([-120.0, 130.0, 180.0])
_SHAKE_NM = 0.003


def chain(residues: int) -> tuple[Molecule, np.ndarray]:
    """Heavy atoms of an extended chain with open ends: an ideal backbone, side chains from PDBFixer's templates."""
    rows: list[np.ndarray] = [np.array(x) for x in ([0.0, 0, 0], [0.1458, 0, 0], [0.1980, 0.1424, 0])]  # N, CA, C
    for _ in range(residues - 1):
        rows.append(_next(rows, 0.1329, 117.2, _PSI))
        rows.append(_next(rows, 0.1458, 121.7, _OMEGA))
        rows.append(_next(rows, 0.1525, 111.0, _PHI))
    backbone_nm = np.array(rows).reshape(residues, 3, 3)
    oxygens = np.array([_next(list(three), 0.1231, 120.1, _PSI + np.pi) for three in backbone_nm])
    names = tuple(_SEQUENCE[k % len(_SEQUENCE)] for k in range(residues))
    first = 4 * np.arange(residues)
    inside = [(f + a, f + b) for f in first for a, b in ((0, 1), (1, 2), (2, 3))]
    links = [(f + 2, f + 4) for f in first[:-1]]
    atom_names, residue_of_atom = ("N", "CA", "C", "O") * residues, np.repeat(np.arange(residues), 4)
    backbone = Molecule(
        name=f"chain{residues}",
        atom_names=atom_names,
        elements=("N", "C", "C", "O") * residues,
        residue_names=names,
        residue_of_atom=residue_of_atom,
        bonds=np.array(sorted(inside + links)),
        stereocentres=natural_stereocentres(atom_names, names, residue_of_atom),
    )
    positions_nm = np.concatenate([backbone_nm, oxygens[:, None]], axis=1).reshape(-1, 3)
    whole, whole_nm, _ = complete(backbone, positions_nm, missing_atoms(backbone))
    return whole, whole_nm


def _next(rows: list[np.ndarray], bond_nm: float, angle_deg: float, torsion_rad: float) -> np.ndarray:
    """The atom after the last three, from bond length, angle and torsion."""
    a, b, c = rows[-3:]
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    angle = np.radians(180.0 - angle_deg)
    across = np.cross(normal, along)
    return c + bond_nm * (
        np.cos(angle) * along + np.sin(angle) * (np.cos(torsion_rad) * across + np.sin(torsion_rad) * normal)
    )


def systems() -> Iterator[tuple[Molecule, np.ndarray, bool]]:
    """Alanine dipeptide and the chains, near rest, with whether to measure the plain way."""
    small = build_peptide("ala", "ACE-ALA-NME", FORCEFIELD)
    yield select_atoms(small.molecule, small.heavy), small.positions_nm[small.heavy], True
    for residues, plainly in SIZES:
        molecule, positions_nm = chain(residues)
        yield molecule, rested(molecule, positions_nm), plainly


def rested(molecule: Molecule, positions_nm: np.ndarray) -> np.ndarray:
    """Heavy atoms after a short minimisation with screened charges: the chain is built with strain."""
    import openmm

    template = make_template(molecule, positions_nm, FORCEFIELD)
    context = Surrogate(template.system).context
    context.setPositions(template.positions_nm)
    minimiser: Any = openmm.LocalEnergyMinimizer
    minimiser.minimize(context, 10.0, 300)
    whole_nm = np.array(context.getState(positions=True).getPositions(asNumpy=True)._value, dtype=np.float64)
    return whole_nm[template.input_atoms]


def seconds(work: Callable[[], Any], *, at_least: float) -> float:
    """CPU seconds of a call, repeated until ``at_least`` CPU seconds have gone."""
    start, calls = time.process_time(), 0
    while calls == 0 or time.process_time() - start < at_least:
        work()
        calls += 1
    return (time.process_time() - start) / calls


def plain_way(molecule: Molecule, positions_nm: np.ndarray) -> None:
    """One conformer as a short script would do it: PDBFixer, System, Context, minimisation about fixed heavy atoms."""
    import openmm
    from openmm import app, unit
    from pdbfixer import PDBFixer

    from ancdiff.forcefield.topology import topology_of_molecule

    platform = openmm.Platform.getPlatformByName("CPU")
    text = io.StringIO()
    app.PDBFile.writeFile(topology_of_molecule(molecule), positions_nm * 10.0 * vars(unit)["angstrom"], text)
    text.seek(0)
    fixer = PDBFixer(pdbfile=text, platform=platform)
    fixer.findMissingResidues()
    fixer.findMissingAtoms()
    fixer.addMissingAtoms()
    fixer.addMissingHydrogens(7.0)
    forcefield = app.ForceField("amber14/protein.ff14SB.xml", "implicit/obc2.xml")
    system = forcefield.createSystem(fixer.topology, nonbondedMethod=app.NoCutoff)
    for atom in fixer.topology.atoms():
        if atom.element is not app.element.hydrogen:
            system.setParticleMass(atom.index, 0.0)
    context: Any = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, {"Threads": "1"})
    context.setPositions(fixer.positions)
    minimiser: Any = openmm.LocalEnergyMinimizer
    minimiser.minimize(context, SCORE.tolerance_kj_mol_nm, SCORE.max_iterations)
    context.getState(getEnergy=True).getPotentialEnergy()


def table(*, at_least: float = 2.0, plainly: bool = True) -> None:
    """Print the table, its scaling exponents and the memory."""
    print("scoring, ff14SB + OBC2, one thread, CPU seconds")
    _job_overhead()
    heads = ("atoms", "platform", "energies/s", "conformers/s", "set-up s", "memory MiB", "plain way/s", "better")
    print("".join(f"{head:>13s}" for head in heads))
    sizes, energy_seconds, path_seconds = [], [], []
    for molecule, positions_nm, measured in systems():
        forget_peak_memory()
        start = time.process_time()
        scorer = Scorer(molecule, positions_nm, FORCEFIELD, SCORE)
        setup = time.process_time() - start
        rng = np.random.default_rng(1)
        shaken_nm = positions_nm + rng.normal(scale=_SHAKE_NM, size=(64, *positions_nm.shape))
        whole_nm = scorer.template.place(shaken_nm)
        turn = iter(range(10**9))

        def one_energy(s: Scorer = scorer, x: np.ndarray = whole_nm, t: Any = turn) -> None:
            s.relaxer.energy_kj_mol(x[next(t) % 64])

        energy = seconds(one_energy, at_least=at_least / 4)

        def path(s: Scorer = scorer, x: np.ndarray = shaken_nm, t: Any = turn) -> None:
            k = next(t) % 64
            assert [row["status"] for row in s.rows(np.array([k]), x[k : k + 1])] == ["ok"]

        full = seconds(path, at_least=at_least)
        text = f"{whole_nm.shape[1]:13d}{scorer.relaxer.platform:>13s}{1 / energy:13.3g}{1 / full:13.3g}"
        text += f"{setup:13.2f}{peak_memory_mib():13.0f}"
        if measured and plainly:
            plain = seconds(lambda m=molecule, x=shaken_nm: plain_way(m, x[0]), at_least=0.0)
            text += f"{1 / plain:13.3g}{plain / full:12.1f}x"
        print(text, flush=True)
        sizes.append(whole_nm.shape[1])
        energy_seconds.append(energy)
        path_seconds.append(full)
    for name, times in (("energy", energy_seconds), ("full path", path_seconds)):
        slope = np.polyfit(np.log(sizes[2:]), np.log(times[2:]), 1)[0]
        print(f"{name}: CPU seconds grow as atoms^{slope:.2f} from {sizes[2]} to {sizes[-1]} atoms")


def _job_overhead() -> None:
    """Print what a job costs, and a further molecule in it."""
    molecule, positions_nm, _ = next(systems())
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "c.dcd"
        write_ensemble(path, Ensemble(molecule, positions_nm[None].astype(np.float32)))

        def job(molecules: int) -> float:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "ancdiff", "score", "--threads", "1"]
            for k in range(molecules):
                command += ["--topology", str(path.with_name("topology.pdb")), "--conformers", str(path)]
                command += ["--output", str(path.with_name(f"{k}.parquet"))]
            subprocess.run(command, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        one, five = job(1), job(5)
    print(f"a job: {one:.1f} s, a further molecule in it {(five - one) / 4:.2f} s")


def profile(residues: int, conformers: int = 4) -> None:
    """Where the time of the full path goes; calls of `energy_and_forces` are those of the stand-in."""
    molecule, positions_nm = chain(residues)
    positions_nm = rested(molecule, positions_nm)
    rng = np.random.default_rng(1)
    shaken_nm = positions_nm + rng.normal(scale=_SHAKE_NM, size=(conformers, *positions_nm.shape))
    watch = cProfile.Profile()
    watch.enable()
    scorer = Scorer(molecule, positions_nm, FORCEFIELD, SCORE)
    rows = list(scorer.rows(np.arange(conformers), shaken_nm))
    watch.disable()
    print(f"{scorer.template.molecule.n_atoms} atoms, full energies of each: {[row['steps'] for row in rows]}")
    pstats.Stats(watch).sort_stats("cumulative").print_stats(30)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Scoring by size of the molecule.")
    parser.add_argument(
        "--profile", type=int, nargs="?", const=34, metavar="RESIDUES", help="show where the time goes instead"
    )
    parser.add_argument("--no-plain", action="store_true", help="leave the plain way out (it takes most of the time)")
    options = parser.parse_args()
    if options.profile:
        profile(options.profile)
    else:
        table(plainly=not options.no_plain)
