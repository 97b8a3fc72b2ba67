"""Our scores beside a plain OpenMM script's, on structures that you name.

    python benchmarks/agreement.py structure.pdb [trajectory.xtc] [--frames 3] [--minimise] [--max-iterations 500]

For each frame: PDBFixer completes the structure without solvent and adds hydrogens, ForceField.createSystem makes the
System, the Reference platform gives energy and forces. Ours come from the same atoms, as all-atom input.

With --minimise a line more for each way of relaxing (hydrogens about fixed heavy atoms; all atoms): the plain script's
energy after OpenMM's minimiser, ours from the same atoms, and ours from the heavy atoms with hydrogens of our own.
Tolerance and number of iterations are the same; ours are CPU seconds of one thread, the plain script's likewise.
"""

import argparse
import io
import os

os.environ.setdefault("TQDM_DISABLE", "1")

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ancdiff.artifacts import molecule_of, read_ensemble, read_structure
from ancdiff.config import ForcefieldSettings, ScoreSettings
from ancdiff.forcefield.energies import open_scorer
from ancdiff.forcefield.prepare import prepare_solute
from ancdiff.forcefield.topology import select_atoms, topology_of_molecule
from ancdiff.molecules import Ensemble

FILES = ("amber14/protein.ff14SB.xml", "implicit/obc2.xml")


def plain_structure(ensemble: Ensemble, structure_nm: np.ndarray | None, frame: int) -> tuple[Any, np.ndarray]:
    """All-atom topology and positions by PDBFixer, from the heavy atoms of a frame without its solvent."""
    from openmm import Platform, app, unit
    from pdbfixer import PDBFixer

    molecule, positions_nm = ensemble.molecule, ensemble.positions_nm[frame].astype(np.float64)
    solute = prepare_solute(molecule, (positions_nm if structure_nm is None else structure_nm)[None])
    heavy = np.flatnonzero(np.array(solute.molecule.elements) != "H")
    text = io.StringIO()
    topology = topology_of_molecule(select_atoms(solute.molecule, heavy))
    app.PDBFile.writeFile(topology, positions_nm[solute.atoms[heavy]] * 10 * vars(unit)["angstrom"], text)
    text.seek(0)
    fixer = PDBFixer(pdbfile=text, platform=Platform.getPlatformByName("CPU"))
    fixer.missingResidues = {}
    fixer.findMissingAtoms()
    if any(residue.name != "NH2" for residue in fixer.missingAtoms) or fixer.missingTerminals:
        fixer.addMissingAtoms(seed=1)
    modeller = app.Modeller(fixer.topology, fixer.positions)
    # PDBFixer's own addMissingHydrogens would ask the network about caps that it does not know.
    modeller.addHydrogens(pH=7.0, platform=Platform.getPlatformByName("CPU"))
    return modeller.topology, np.array(modeller.positions.value_in_unit(vars(unit)["nanometer"]))


def plain_context(topology: Any, *, hydrogens_only: bool = False) -> Any:
    """Context on the Reference platform of the System that a plain script makes; heavy atoms fixed if so asked."""
    import openmm
    from openmm import app

    system = app.ForceField(*FILES).createSystem(topology, nonbondedMethod=app.NoCutoff)
    for atom in topology.atoms():
        if hydrogens_only and atom.element is not app.element.hydrogen:
            system.setParticleMass(atom.index, 0.0)
    return openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))


def heavy_atoms(ensemble: Ensemble, frame: int) -> Ensemble:
    """One frame without its hydrogens and its water's."""
    rows = np.flatnonzero(np.array(ensemble.molecule.elements) != "H")
    return Ensemble(select_atoms(ensemble.molecule, rows), ensemble.positions_nm[frame : frame + 1, rows])


def energy_and_forces(context: Any, positions_nm: np.ndarray) -> tuple[float, np.ndarray]:
    context.setPositions(positions_nm)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, np.asarray(state.getForces(asNumpy=True)._value)


def compare(path: Path, ensemble: Ensemble, frames: np.ndarray, *, minimise: bool, max_iterations: int) -> None:
    """Print one line for each frame, and one more for each way of relaxing it."""
    import mdtraj

    structure_nm = read_structure(path)
    for frame in frames:
        topology, positions_nm = plain_structure(ensemble, structure_nm, frame)
        context = plain_context(topology)
        plain, plain_forces = energy_and_forces(context, positions_nm)
        whole = Ensemble(molecule_of(mdtraj.Topology.from_openmm(topology), path.stem), positions_nm[None])
        settings = ForcefieldSettings(platform="Reference")
        scorer = open_scorer(whole, settings, ScoreSettings(relax="none"))
        ours = next(scorer.rows(np.array([0]), whole.positions_nm))["energy_kj_mol"]
        forces = scorer.relaxer.forces_kj_mol_nm(positions_nm)
        apart = abs(ours - plain) / abs(plain)
        off = np.abs(forces - plain_forces).max() / np.abs(plain_forces).max()
        line = f"{path.stem:28s} frame {frame:4d} {len(positions_nm):5d} atoms  plain {plain:11.3f}  ours {ours:11.3f}"
        line += f"  energy {apart:.1e}  forces {off:.1e}"
        print(line, flush=True)
        ways: tuple[Literal["hydrogens", "full"], ...] = ("hydrogens", "full")
        for relax in ways if minimise else ():
            score = ScoreSettings(relax=relax, max_iterations=max_iterations)
            compare_minimised(topology, whole, heavy_atoms(ensemble, frame), score)


def compare_minimised(
    topology: Any,
    whole: Ensemble,
    heavy: Ensemble,
    score: ScoreSettings,
) -> None:
    """Print a line: minimised energies of one frame, from the plain script's atoms and from those that were given."""
    import openmm

    context = plain_context(topology, hydrogens_only=score.relax == "hydrogens")
    context.setPositions(whole.positions_nm[0])
    minimiser: Any = openmm.LocalEnergyMinimizer
    start = time.process_time()
    minimiser.minimize(context, score.tolerance_kj_mol_nm, score.max_iterations)
    plain_seconds = time.process_time() - start
    plain = context.getState(energy=True).getPotentialEnergy()._value
    line = f"  relax {score.relax:10s} plain {plain:11.1f} ({plain_seconds:6.1f} s)"
    # The plain script's histidines follow their hydrogen bonds; so do ours here, or the molecules would differ.
    forcefield = ForcefieldSettings(histidine="hydrogen_bonds")
    for name, ensemble in (("same atoms", whole), ("own hydrogens", heavy)):
        scorer = open_scorer(ensemble, forcefield, score)
        start = time.process_time()
        row = next(scorer.rows(np.array([0]), ensemble.positions_nm))
        seconds = time.process_time() - start
        ours = row["energy_kj_mol"]
        line += f"  {name} {ours:11.1f} {100 * (ours - plain) / abs(plain):+7.3f} % ({seconds:5.1f} s, {row['status']})"
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Our scores beside a plain OpenMM script's.")
    parser.add_argument("structure", type=Path)
    parser.add_argument("trajectory", type=Path, nargs="?")
    parser.add_argument("--frames", type=int, default=1, help="so many, evenly spaced")
    parser.add_argument("--frame", type=int, help="this one")
    parser.add_argument("--minimise", action="store_true")
    parser.add_argument("--max-iterations", type=int, default=500)
    options = parser.parse_args()
    conformers = read_ensemble(options.trajectory or options.structure, topology=options.structure)
    spaced = np.linspace(0, len(conformers) - 1, min(options.frames, len(conformers))).astype(int)
    chosen = spaced if options.frame is None else np.array([options.frame])
    wanted = {"minimise": options.minimise, "max_iterations": options.max_iterations}
    compare(options.structure, conformers, chosen, **wanted)
