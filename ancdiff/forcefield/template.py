"""The all-atom molecule of heavy-atom (or all-atom) conformers, decided once from one of them."""

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ancdiff.config import ForcefieldSettings
from ancdiff.errors import InputError
from ancdiff.forcefield.completion import AtomPlacer, carried, complete, nothing_added
from ancdiff.forcefield.hydrogens import HydrogenPlacer, add_hydrogens, placer_from_template
from ancdiff.forcefield.platforms import platform_by_name, platform_properties, setup_platform
from ancdiff.forcefield.prepare import (
    Solute,
    missing_atoms,
    open_ends,
    prepare_solute,
    residue_labels,
    usable_structure,
)
from ancdiff.forcefield.residues import CAPS, RESIDUES
from ancdiff.forcefield.system import GROUPS, create_system
from ancdiff.forcefield.topology import molecule_of_topology, select_atoms, topology_of_molecule
from ancdiff.molecules import Molecule

_TOLERANCE_KJ_MOL_NM = 1.0


@dataclass(frozen=True, eq=False)
class Template:
    """An all-atom molecule, and where the input's atoms are in it; ``all_atom``: the input has its own hydrogens.

    ``kept`` are the input's atoms that are scored (no solvent, no hydrogens that were replaced), ``input_atoms`` their
    places in the all-atom molecule, ``input_molecule`` what they make. ``record`` says what was decided.
    """

    molecule: Molecule
    topology: Any
    system: Any
    positions_nm: Float[np.ndarray, "atoms 3"]
    input_atoms: Int[np.ndarray, " kept"]
    placer: HydrogenPlacer
    all_atom: bool
    kept: Int[np.ndarray, " kept"]
    input_molecule: Molecule
    completer: AtomPlacer
    record: dict[str, Any]

    @property
    def held(self) -> Int[np.ndarray, " held"]:
        """Heavy atoms that the input has: fixed, or restrained, while the others relax."""
        return np.intersect1d(self.input_atoms, self.placer.heavy)

    def place(self, positions_nm: Float[np.ndarray, "conformers input 3"]) -> Float[np.ndarray, "conformers atoms 3"]:
        """All-atom positions of conformers, in float64; the input's atoms are where they were."""
        kept_nm = np.asarray(positions_nm, dtype=np.float64)[:, self.kept]
        if self.all_atom:
            return kept_nm
        with np.errstate(invalid="ignore"):  # a conformer with infinite coordinates is found out later
            return self.placer.place(self.completer.place(kept_nm))


def make_template(
    molecule: Molecule,
    positions_nm: Float[np.ndarray, "input 3"],
    settings: ForcefieldSettings,
    *,
    structure_nm: Float[np.ndarray, "input 3"] | None = None,
) -> Template:
    """Complete one conformer, add hydrogens and relax them, heavy atoms fixed, solvent left out; no random numbers.

    A molecule that has all its hydrogens keeps them; some are replaced by all. ``structure_nm``, the coordinates of
    the topology, decides what is bonded and how histidine is protonated; without it the conformer does.

    Raises:
        InputError: a residue or an atom is not known, or a backbone is not whole.
    """
    structure_nm = usable_structure(molecule, structure_nm)
    evidence_nm = np.asarray(positions_nm if structure_nm is None else structure_nm, dtype=np.float64)
    solute = prepare_solute(molecule, evidence_nm[None], own_residues=bool(settings.xml))
    kept_nm = np.asarray(positions_nm, dtype=np.float64)[solute.atoms]
    why = "" if "H" in solute.molecule.elements else "the input has none"
    if not why:
        try:
            return _all_atom_template(solute, kept_nm, settings)
        except InputError as error:
            why = error.what.splitlines()[0]
    return _completed_template(solute, kept_nm, evidence_nm[solute.atoms], settings, why)


def _all_atom_template(solute: Solute, positions_nm: np.ndarray, settings: ForcefieldSettings) -> Template:
    topology = topology_of_molecule(solute.molecule)
    whole = solute.molecule
    return Template(
        molecule=whole,
        topology=topology,
        system=create_system(topology, settings),  # raises where hydrogens are missing
        positions_nm=positions_nm,
        input_atoms=np.arange(whole.n_atoms),
        placer=placer_from_template(whole, positions_nm),
        all_atom=True,
        kept=solute.atoms,
        input_molecule=whole,
        completer=nothing_added(whole.n_atoms),
        record=_record(solute, whole, {}, "kept: the input has all of them"),
    )


def _completed_template(
    solute: Solute, positions_nm: np.ndarray, evidence_nm: np.ndarray, settings: ForcefieldSettings, why: str
) -> Template:
    """A template from the heavy atoms: ``positions_nm`` is the conformer, ``evidence_nm`` what decides."""
    heavy = np.flatnonzero(np.array(solute.molecule.elements) != "H")
    given = select_atoms(solute.molecule, heavy)
    missing = missing_atoms(given)
    whole_heavy, evidence_nm, completer = complete(given, evidence_nm[heavy], missing)
    topology = topology_of_molecule(whole_heavy)
    states = solute.states
    if settings.histidine == "hydrogen_bonds":
        states = _states_of(add_hydrogens(topology, evidence_nm, settings, states)[0], states)
    topology, placed_nm = add_hydrogens(topology, completer.place(positions_nm[None, heavy])[0], settings, states)
    whole = molecule_of_topology(topology, given.name)
    system = create_system(topology, settings)
    heavy_rows = np.flatnonzero(np.array(whole.elements) != "H")
    input_atoms = heavy_rows[completer.given]
    placed_nm = _relax_placed(system, input_atoms, placed_nm)
    return Template(
        molecule=whole,
        topology=topology,
        system=system,
        positions_nm=placed_nm,
        input_atoms=input_atoms,
        placer=placer_from_template(whole, placed_nm),
        all_atom=False,
        kept=solute.atoms[heavy],
        input_molecule=given,
        completer=carried(completer, placed_nm[heavy_rows]),
        record=_record(solute, whole, missing, f"added at pH {settings.ph:g}: {why}"),
    )


def _states_of(topology: Any, named: dict[int, str]) -> dict[int, str]:
    """The states of histidine that OpenMM chose, by residue, besides those that are named."""
    molecule = molecule_of_topology(topology, "")
    chosen = {r: state for r, state in _protonation(molecule) if molecule.residue_names[r] == "HIS"}
    return chosen | named


def _relax_placed(
    system: Any, held: Int[np.ndarray, " held"], positions_nm: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, "atoms 3"]:
    import openmm

    fixed = copy.deepcopy(system)
    for atom in held:
        fixed.setParticleMass(int(atom), 0.0)  # OpenMM's minimiser leaves massless particles where they are
    integrator = openmm.VerletIntegrator(0.001)
    integrator.setIntegrationForceGroups(set(GROUPS.values()) - {GROUPS["solvation"]})
    platform = platform_by_name(setup_platform(len(positions_nm)))
    context = openmm.Context(fixed, integrator, platform, platform_properties(platform, 1))
    context.setPositions(positions_nm)
    minimiser: Any = openmm.LocalEnergyMinimizer
    minimiser.minimize(context, _TOLERANCE_KJ_MOL_NM)
    return np.array(context.getState(positions=True).getPositions(asNumpy=True)._value, dtype=np.float64)


def _record(solute: Solute, whole: Molecule, missing: dict[int, list[str]], hydrogens: str) -> dict[str, Any]:
    """What was decided about a molecule, for the record of its scores; residues are counted from 1 without solvent."""
    ends = open_ends(whole)
    before = {int(whole.residue_of_atom[j]) for a, b in whole.bonds for i, j in ((a, b), (b, a))
              if whole.atom_names[j] == "N" and whole.residue_of_atom[i] != whole.residue_of_atom[j]}  # fmt: skip
    chain = [r for r, name in enumerate(whole.residue_names) if name in RESIDUES]
    starts = [r for r in chain if whole.residue_names[r] not in CAPS and r not in before]
    labels = dict(zip(missing, residue_labels(whole, list(missing)), strict=True))
    return solute.record | {
        "added_atoms": {labels[r]: atoms for r, atoms in missing.items()},
        "hydrogens": hydrogens,
        "termini": {
            "charged_amino": residue_labels(whole, starts),
            "charged_carboxyl": residue_labels(whole, ends),
            "caps": residue_labels(whole, [r for r in chain if whole.residue_names[r] in CAPS]),
        },
        "protonation": protonation(whole),
    }


def protonation(molecule: Molecule) -> dict[str, str]:
    """State of each residue of an all-atom molecule that has more than one, by its hydrogens: {'HIS 12': 'HIE'}."""
    return {f"{molecule.residue_names[r]} {r + 1}": state for r, state in _protonation(molecule)}


def _protonation(molecule: Molecule) -> list[tuple[int, str]]:
    """By the number of hydrogens on each atom, whatever their names."""
    hydrogens: Counter[tuple[int, str]] = Counter()
    bridged = set()
    for a, b in ((int(i), int(j)) for pair in molecule.bonds for i, j in (pair, pair[::-1])):
        place = (int(molecule.residue_of_atom[a]), molecule.atom_names[a])
        if molecule.elements[b] == "H":
            hydrogens[place] += 1
        elif molecule.atom_names[a] == molecule.atom_names[b] == "SG":
            bridged.add(place[0])
    found = []
    for r, residue in enumerate(molecule.residue_names):
        n = {name: count for (of, name), count in hydrogens.items() if of == r}
        if residue == "HIS":
            found.append(
                (r, {(1, 1): "HIP", (1, 0): "HID", (0, 1): "HIE"}.get((n.get("ND1", 0), n.get("NE2", 0)), "?"))
            )
        elif residue in ("ASP", "GLU"):
            acid = any(n.get(name) for name in ("OD1", "OD2", "OE1", "OE2"))
            found.append((r, {"ASP": "ASH", "GLU": "GLH"}[residue] if acid else residue))
        elif residue == "LYS":
            found.append((r, "LYS" if n.get("NZ") == 3 else "LYN"))
        elif residue == "CYS":
            found.append((r, "CYX" if r in bridged else "CYS" if n.get("SG") else "CYM"))
    return found
