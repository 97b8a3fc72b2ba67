"""Sampled conformers: a stick drawing for print, and coordinates for the view that turns."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ancdiff.molecules import Molecule
from ancdiff.origins import is_particles
from ancdiff.report.collect import Run, available, evenly, words
from ancdiff.report.figures import PAGE_INCHES
from ancdiff.report.style import ELEMENT_COLOURS, OTHER_ELEMENT

_ANCHOR_RESIDUES = 6
"""Up to this length conformers are laid upon the middle residue's backbone; longer chains upon all their Cα."""
_PM_PER_NM = 1000


def anchor_atoms(molecule: Molecule) -> Int[np.ndarray, " anchors"]:
    """Atoms on which conformers are superposed: at least three, not in line."""
    middle = molecule.ramachandran_residues()
    if middle and len(middle) <= _ANCHOR_RESIDUES:
        residue = middle[len(middle) // 2]
        found = [molecule.atom_index(residue, name) for name in ("N", "CA", "C", "CB")]
        return np.array([i for i in found if i is not None], dtype=np.int64)
    carbons = np.array([i for i, name in enumerate(molecule.atom_names) if name == "CA"], dtype=np.int64)
    return carbons if len(carbons) >= 4 else np.arange(molecule.n_atoms)


def laid_upon(
    positions_nm: Float[np.ndarray, "conformers atoms 3"],
    target_nm: Float[np.ndarray, "atoms 3"],
    anchors: Int[np.ndarray, " anchors"],
) -> Float[np.ndarray, "conformers atoms 3"]:
    """Conformers superposed on a structure by their anchors, which are centred at the origin."""
    p = np.asarray(positions_nm, dtype=np.float64)
    p = p - p[:, anchors].mean(axis=1, keepdims=True)
    target = np.asarray(target_nm, dtype=np.float64)[anchors]
    u, _, vt = np.linalg.svd(np.einsum("fai,aj->fij", p[:, anchors], target - target.mean(axis=0)))
    u[:, :, -1] *= np.sign(np.linalg.det(u @ vt))[:, None]
    return p @ (u @ vt)


def pictured(run: Run, system: str) -> dict[str, Float[np.ndarray, "conformers atoms 3"]]:
    """Some conformers of each shown ensemble, superposed and turned so that they lie flat in the plane of x and y."""
    if is_particles(run.settings.systems[system]):
        return {}  # no bonds to draw, no order to lay upon each other (`ancdiff.report.particles`)
    names = available(run, system, run.shown)
    chosen = {}
    for name in names:
        ensemble = run.ensemble(name, system)
        assert ensemble is not None
        chosen[name] = ensemble.positions_nm[evenly(len(ensemble), run.settings.report.pictured_conformers)]
    if not chosen:
        return {}
    anchors = anchor_atoms(ensemble.molecule)
    last = chosen[names[-1]]
    laid = {name: laid_upon(p, last[0], anchors) for name, p in chosen.items()}
    cloud = laid[names[-1]].reshape(-1, 3)
    axes = np.linalg.svd(cloud - cloud.mean(axis=0), full_matrices=False)[2]
    axes[2] = np.cross(axes[0], axes[1])  # a turn, not a mirror image
    return {name: (p - cloud.mean(axis=0)) @ axes.T for name, p in laid.items()}


def stick_drawing(run: Run, system: str) -> Figure | None:
    """Superposed conformers of each shown ensemble, side by side at one scale."""
    laid = pictured(run, system)
    ensemble = run.ensemble(next(iter(laid)), system) if laid else None
    if ensemble is None:
        return None
    everything = np.concatenate([p.reshape(-1, 3) for p in laid.values()])
    low, high = np.quantile(everything[:, :2], [0.005, 0.995], axis=0)
    low, high = low - np.array([0.06, 0.16]), high + 0.06  # room for the scale below
    width = PAGE_INCHES / max(len(laid), 4)
    height = width * (high[1] - low[1]) / (high[0] - low[0])
    figure = Figure(figsize=(width * len(laid), height + 0.35), layout="constrained")
    axes = figure.subplots(1, len(laid), squeeze=False)[0]
    for panel, (name, positions) in zip(axes, laid.items(), strict=True):
        _sticks(panel, ensemble.molecule, positions)
        panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
        panel.set_title(words(name))
        for spine in panel.spines.values():
            spine.set_visible(False)
    scale = axes[0]
    x, y = low[0] + 0.03, low[1] + 0.02
    scale.plot([x, x + 0.2], [y, y], color="black", linewidth=1.5, solid_capstyle="butt")
    scale.text(x + 0.1, y + 0.012, "0.2 nm", ha="center", va="bottom", fontsize=7)
    return figure


def _sticks(panel: Axes, molecule: Molecule, positions: np.ndarray) -> None:
    """Bonds as two halves in the colours of their elements, the far ones first and paler."""
    a, b = molecule.bonds.T
    middle = (positions[:, a] + positions[:, b]) / 2
    colours = np.array([ELEMENT_COLOURS.get(e, OTHER_ELEMENT) for e in molecule.elements])
    segments = np.concatenate([np.stack([positions[:, end], middle], axis=2).reshape(-1, 2, 3) for end in (a, b)])
    paint = np.concatenate([np.tile(colours[end], len(positions)) for end in (a, b)])
    depth = segments[:, :, 2].mean(axis=1)
    order = np.argsort(depth)
    span = max(np.ptp(depth), 1e-9)
    alpha = 0.25 + 0.55 * (depth - depth.min()) / span
    lines = LineCollection(
        list(segments[order, :, :2]), colors=paint[order].tolist(), alpha=alpha[order].tolist(), linewidths=1.5,
        capstyle="round",
    )  # fmt: skip
    panel.add_collection(lines)


def view_data(run: Run) -> list[dict[str, Any]]:
    """What the view that turns needs, as JSON: per system its bonds, colours, and conformers in whole picometres."""
    content = []
    for system in run.pictured_systems:
        laid = pictured(run, system)
        ensemble = run.ensemble(next(iter(laid)), system) if laid else None
        if ensemble is None:
            continue
        molecule = ensemble.molecule
        frames = {
            words(name): np.rint(p * _PM_PER_NM).astype(int).reshape(len(p), -1).tolist() for name, p in laid.items()
        }
        content.append(
            {
                "system": system,
                "bonds": molecule.bonds.tolist(),
                "colours": [ELEMENT_COLOURS.get(e, OTHER_ELEMENT) for e in molecule.elements],
                "radius": int(_PM_PER_NM * max(np.linalg.norm(p, axis=-1).max() for p in laid.values())),
                "ensembles": frames,
            }
        )
    return content
