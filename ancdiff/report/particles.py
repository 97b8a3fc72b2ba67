"""What the report shows of systems of identical particles: pair distances, the way from noise to shape, sentences."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from ancdiff.artifacts import read_ensemble, read_json
from ancdiff.corridor import aligned_model, line_settings
from ancdiff.errors import InputError
from ancdiff.origins import is_particles
from ancdiff.report.collect import Run, available, line_words, words
from ancdiff.report.figures import PAGE_INCHES, grid, legend_above
from ancdiff.report.style import FLOOR_COLOUR, look

_BINS = 120
_FRAMES = 6
_TINY = 1e-12
_LINEAR_KT = 0.5  # errors beyond twice this are drawn on a logarithmic axis from here on


def names(run: Run) -> list[str]:
    """The pictured systems of particles."""
    return [name for name in run.pictured_systems if is_particles(run.settings.systems[name])]


def pair_distances(run: Run) -> Figure | None:
    """Histograms of the distances of all pairs, for each system and shown ensemble."""
    systems = [name for name in names(run) if available(run, name, run.shown)]
    if not systems:
        return None
    figure, axes = grid(len(systems), columns=3, height=2.2)
    for panel, system in zip(axes, systems, strict=True):
        found = {}
        for name in available(run, system, run.shown):
            ensemble = run.ensemble(name, system)
            assert ensemble is not None
            i, j = np.triu_indices(ensemble.molecule.n_atoms, k=1)
            found[name] = np.linalg.norm(ensemble.positions_nm[:, i] - ensemble.positions_nm[:, j], axis=-1).ravel()
        edges = np.linspace(0.0, 1.1 * max(float(np.quantile(d, 0.999)) for d in found.values()), _BINS + 1)
        for name, distance in found.items():
            style, width = look(name), edges[1] - edges[0]
            weights = np.full(len(distance), 1 / (len(distance) * width))
            panel.hist(
                distance, bins=edges.tolist(), weights=weights, histtype="step", color=style.colour,
                linestyle=style.line, linewidth=1.4, label=words(name),
            )  # fmt: skip
        panel.set(title=system, xlim=(0, edges[-1]), yticks=[])
    figure.supxlabel("distance of two particles (nm)", fontsize=9)
    figure.supylabel("density", fontsize=9)
    legend_above(figure, axes[0])
    return figure


def errors_per_step(run: Run) -> Figure | None:
    """Error of the populations (of the energies, where there are no wells) and of the mean energy against steps.

    For each line of models the mean over seeds, with each seed's own values thin.
    """
    systems = [name for name in names(run) if run.settings.systems[name].exact is not None] if run.rounds else []
    panels = [(system, *panel) for system in systems for panel in _error_panels(run, system)]
    if not panels:
        return None
    figure, axes = grid(len(panels), columns=2, height=2.4)
    for panel, (system, rows, label) in zip(axes, panels, strict=True):
        values, floors = rows["value"].to_dict(), rows["floor"].dropna()
        panel.axhline(0.0, color="#000000", linewidth=0.8)
        if len(floors):
            panel.axhspan(-floors.mean(), floors.mean(), color=FLOOR_COLOUR, alpha=0.2, linewidth=0, label="floor")
        for line in run.objectives:
            steps = line_settings(run.settings.align, line).steps * np.arange(run.rounds + 1)
            found = np.array(
                [
                    [values.get(aligned_model(line, r, s), np.nan) for r in range(run.rounds + 1)]
                    for s in run.named_seeds
                ]
            )
            style = look(aligned_model(line, 1))
            panel.plot(steps, found.T, color=style.colour, alpha=0.5, linewidth=0.6)
            panel.plot(
                steps, found.mean(axis=0), color=style.colour, marker=style.marker, linestyle=style.line,
                label=line_words(line),
            )  # fmt: skip
        panel.set(title=system, ylabel=label)
        if np.abs(panel.get_ylim()).max() > 2 * _LINEAR_KT:
            low = -2 * floors.mean() if len(floors) else 0.0
            drawn = np.array(list(values.values()))
            panel.set_yscale("symlog", linthresh=_LINEAR_KT, linscale=1.5)
            panel.set_ylim(min(low, 1.3 * np.nanmin(drawn)), 2 * np.nanmax(drawn))
            ticks = SymmetricalLogLocator(base=10, linthresh=_LINEAR_KT).tick_values(*panel.get_ylim())
            # Labels in the linear part would overlap.
            panel.set_yticks([tick for tick in ticks if tick == 0 or abs(tick) > _LINEAR_KT])
    figure.supxlabel("steps of alignment", fontsize=9)
    legend_above(figure, axes[0])
    return figure


def _error_panels(run: Run, system: str) -> list[tuple[pd.DataFrame, str]]:
    """Rows of the metrics to draw, by ensemble, and what they are."""
    free = ("free_energy_difference_kt", "exact", "ΔF − exact (kT)")
    distance = ("energy_w1_kt", "reference", "energy distance (kT)")
    means = [("mean_energy_kt", md, f"⟨E⟩ − {md} (kT)") for md in ("exact", "reference")]
    found = []
    for choices in ((free, distance), means):
        for metric, against, label in choices:
            rows = run.select(metric, system=system, against=against, basin="*")
            if len(rows):
                found.append((rows.set_index("ensemble"), label))
                break
    return found


def reverse_path(run: Run, system: str) -> Figure | None:
    """One conformer on its way from noise to shape, and beside it one that was held out."""
    if system not in names(run):
        return None
    model = run.shown[-2]
    conformers = run.layout.ensemble(model, system)
    try:
        path = read_ensemble(conformers.with_name("reverse.dcd"), name=system).positions_nm.astype(np.float64)
        sigma_nm = read_json(conformers.with_suffix(".json"))["reverse_sigma_nm"]
    except (InputError, KeyError):
        return None
    held_out = run.ensemble("reference", system)
    clean = path[-1] - path[-1].mean(axis=0)
    axes_of_shape = np.linalg.svd(clean, full_matrices=True)[2]
    axes_of_shape[2] *= np.linalg.det(axes_of_shape)
    chosen = _evenly_shrinking(path, _FRAMES)
    panels = [((path[k] - path[k].mean(axis=0)) @ axes_of_shape.T, _sigma_words(sigma_nm[k])) for k in chosen]
    if held_out is not None:
        other = held_out.positions_nm[0].astype(np.float64)
        other -= other.mean(axis=0)
        turn = np.linalg.svd(other, full_matrices=True)[2]
        turn[2] *= np.linalg.det(turn)
        panels.append((other @ turn.T, "held out"))
    figure = Figure(figsize=(PAGE_INCHES, PAGE_INCHES / len(panels) + 0.45), layout="constrained")
    for panel, (points, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _scatter(panel, points, title)
    return figure


def _evenly_shrinking(path: np.ndarray, wanted: int) -> list[int]:
    """Frames at which the extent has fallen in equal steps of its logarithm, and then the last ones' detail."""
    extent = np.log(np.sqrt(np.mean(np.sum((path - path.mean(axis=1, keepdims=True)) ** 2, axis=-1), axis=-1)) + _TINY)
    goals = np.linspace(extent[0], extent[-1], wanted)
    first = [int(np.argmax(extent <= goal + 1e-9)) for goal in goals[:-1]]
    return sorted({*first, len(path) - 1})


def _sigma_words(sigma_nm: float) -> str:
    return f"σ = {sigma_nm:.3g} nm" if sigma_nm > 0 else "σ = 0: the sample"


def _scatter(panel: Axes, points: np.ndarray, title: str) -> None:
    """Particles seen from the front, the far ones smaller and paler, each panel at its own scale."""
    order = np.argsort(points[:, 2])
    depth = (points[order, 2] - points[:, 2].min()) / max(float(np.ptp(points[:, 2])), _TINY)
    extent = 1.15 * max(float(np.abs(points[:, :2]).max()), _TINY)
    colours = np.zeros((len(points), 4))
    colours[:] = (0.0, 0.447, 0.698, 1.0)
    colours[:, 3] = 0.35 + 0.65 * depth
    panel.scatter(points[order, 0], points[order, 1], s=14 + 26 * depth, c=colours, edgecolors="white", linewidths=0.4)
    panel.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xticks=[], yticks=[])
    panel.set_title(title, fontsize=8)
    panel.text(0.5, 0.0, f"{2 * extent:.2g} nm wide", transform=panel.transAxes, ha="center", va="bottom", fontsize=6.5)


def tiles(run: Run) -> list[dict[str, str]]:
    """The few numbers at the top of a run with particles: of shapes, or of energies where there are any."""
    out = []
    last = run.shown[-2]
    shapes = [s for s in names(run) if not _has_energies(run, s, last)]
    for column, label in (("chamfer_nm", "Chamfer distance"), ("shape_rmsd_nm", "RMSD of shapes")):
        ratios = [v for s in shapes if (v := _ratio(run, column, s, last)) is not None]
        if ratios:
            out.append({"value": f"{max(ratios, key=lambda r: abs(r - 1)):.2f} × floor", "words": f"{label}, at worst"})
    ratios = [v for s in names(run) if (v := _ratio(run, "energy_w1_kt", s, last)) is not None]
    if ratios:
        out.append({"value": f"{max(ratios):,.1f} × floor", "words": f"energy distance, at worst ({words(last)})"})
    for precision in ("float32", "float64"):
        rows = run.select(f"equivariance_error_{precision}")
        if len(rows):
            out.append({"value": f"{rows['value'].max():.1e}", "words": f"equivariance error, {precision}, at worst"})
    return out


_SAID_OF_SHAPES = (
    ("chamfer_nm", "the nearest held-out shape is {value:.3g} nm away (Chamfer; floor {floor:.3g})"),
    ("shape_rmsd_nm", "{value:.3g} nm in RMSD (floor {floor:.3g})"),
)
_SAID_OF_ENERGIES = (
    ("energy_w1_kt", "energies are {value:.2f} kT from the reference's (floor {floor:.2f})"),
    ("population_distance", "populations of the wells by {value:.3f} (floor {floor:.3f})"),
)


def findings(run: Run) -> list[str]:
    """A sentence for each system and last model: of its shapes, or of its energies and wells where it has any."""
    out = []
    for system in names(run):
        for model in dict.fromkeys(m for m in run.shown if m not in ("training", "reference")):
            said = [
                text
                for metric, form in (_SAID_OF_ENERGIES if _has_energies(run, system, model) else _SAID_OF_SHAPES)
                if (text := _sentence(run, metric, system, model, "reference", form))
            ]
            exact = _sentence(
                run, "population_distance", system, model, "exact", "and by {value:.3f} from the exact ones"
            )
            if said:
                out.append(f"{system}, {words(model)}: " + ", ".join([*said, exact] if exact else said) + ".")
    return out


def story(run: Run) -> str:
    """What was done with particles."""
    return (
        "One equivariant diffusion model was trained on systems of identical particles (training data) and sampled; "
        "the reference was held out: further clouds from the same law, or parallel tempering of the exact energy. "
        "Energies are in kT, lengths in nm; the configuration says how long one reduced length is."
    )


def _row(run: Run, metric: str, system: str, model: str, against: str) -> Any:
    rows = run.select(metric, system=system, ensemble=model, against=against)
    return next(rows.itertuples(), None)


def _has_energies(run: Run, system: str, model: str) -> bool:
    """Whether a model's energies of a system were compared with the reference's: clouds of points have none."""
    return _row(run, "energy_w1_kt", system, model, "reference") is not None


def _ratio(run: Run, metric: str, system: str, model: str) -> float | None:
    row = _row(run, metric, system, model, "reference")
    return None if row is None or not row.floor > 0 else float(row.value / row.floor)


def _sentence(run: Run, metric: str, system: str, model: str, against: str, form: str) -> str:
    row = _row(run, metric, system, model, against)
    return "" if row is None or not np.isfinite(row.value) else form.format(value=row.value, floor=row.floor)
