"""The figures of the report. Each function draws one matplotlib figure from a run; nothing here touches the disk."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator

from ancdiff.basins import BASINS, ramachandran
from ancdiff.corridor import PRETRAINED, aligned_model, objective_of
from ancdiff.report.collect import Run, available, line_words, pool_weights, training_curve, words
from ancdiff.report.style import FLOOR_COLOUR, look, objective_look

BASIN_WORDS = {"alpha_r": "αR", "beta": "β", "alpha_l": "αL"}
PAGE_INCHES = 9.6
_MAP_BINS = 45
_MAP_DEPTH_KT = 6.0
_TICKS_DEG = (-120, 0, 120)
_MOST_BASIN_PANELS = 24


def grid(panels: int, *, columns: int, height: float = 2.4) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels of one size; those that are left over are taken away.

    A single panel is half as wide as the page, so that a legend fits above it.
    """
    used = min(columns, panels)
    rows = math.ceil(panels / columns)
    width = PAGE_INCHES * max(used / columns, 0.5)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, used, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.remove()
    return figure, axes[:panels]


def ramachandran_maps(run: Run, system: str) -> Figure | None:
    """Free-energy maps −ln(p/p_max) of every residue, one column per shown ensemble; None without residues."""
    angles = {}
    labels: list[str] = []
    for name in available(run, system, run.shown):
        ensemble = run.ensemble(name, system)
        assert ensemble is not None
        residues, phi_psi = ramachandran(ensemble)
        labels = [f"{ensemble.molecule.residue_names[r]}{r + 1}" for r in residues]
        angles[name] = (len(ensemble), np.degrees(phi_psi))
    if not labels:
        return None
    if len(labels) > run.settings.report.mapped_residues:
        labels = [f"all {len(labels)} residues"]
        angles = {name: (n, a.reshape(-1, 1, 2)) for name, (n, a) in angles.items()}
    return _map_grid(labels, angles)


def _map_grid(labels: list[str], angles: dict[str, tuple[int, np.ndarray]]) -> Figure:
    """Square panels of one size; margins in inches, as no layout engine keeps squares together as cheaply."""
    left, right, top, bottom, gap = 0.85, 0.85, 0.5, 0.5, 0.14
    rows, columns = len(labels), len(angles)
    side = (PAGE_INCHES - left - right - 4 * gap) / 5  # five ensembles fill the page; fewer make a narrower figure
    side = min(side, (PAGE_INCHES - left - right - (columns - 1) * gap) / columns)
    width = left + right + columns * side + (columns - 1) * gap
    height = top + bottom + rows * side + (rows - 1) * gap
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height,
        wspace=gap / side, hspace=gap / side,
    )  # fmt: skip
    for i, label in enumerate(labels):
        for j, (name, (n, phi_psi)) in enumerate(angles.items()):
            mesh = _map(axes[i, j], phi_psi[:, i])
            if i == 0:
                axes[i, j].set_title(f"{words(name)}\n{n:,} conformers")
        axes[i, 0].set_ylabel(f"{label}\nψ (°)")
    for panel in axes[-1]:
        panel.set_xlabel("φ (°)")
    bar = (1 - (right - 0.12) / width, 1 - (top + side) / height, 0.13 / width, side / height)  # beside the first row
    beside = figure.add_axes(bar)
    figure.colorbar(mesh, cax=beside, extend="max").set_label("free energy (kT)")
    return figure


def _map(panel: Axes, phi_psi_deg: np.ndarray) -> Any:
    edges = np.linspace(-180, 180, _MAP_BINS + 1)
    counts, _, _ = np.histogram2d(phi_psi_deg[:, 0], phi_psi_deg[:, 1], bins=[edges, edges])
    with np.errstate(divide="ignore"):
        free = -np.log(counts / counts.max())
    free[~np.isfinite(free)] = np.nan
    mesh = panel.pcolormesh(edges, edges, free.T, cmap="cividis", vmin=0, vmax=_MAP_DEPTH_KT, rasterized=True)
    for x, y in (((0, 0), (-180, 180)), ((-180, 0), (-120, -120)), ((-180, 0), (50, 50))):  # the basins' borders
        panel.plot(x, y, color="#999999", linewidth=0.6, linestyle=(0, (4, 3)))
    for name, x, y in (("alpha_r", -172, -112), ("beta", -172, 58), ("alpha_l", 8, -172)):
        panel.text(x, y, BASIN_WORDS[name], fontsize=7.5, color="#555555", va="bottom")
    panel.set(xlim=(-180, 180), ylim=(-180, 180), xticks=_TICKS_DEG, yticks=_TICKS_DEG, aspect="equal")
    panel.tick_params(labelsize=7.5)
    for side in ("top", "right"):
        panel.spines[side].set_visible(True)
    return mesh


def free_energy_per_round(run: Run) -> Figure | None:
    """Basin free-energy error after each round, for each objective: the mean over systems, then each system."""
    rows = run.select("free_energy_error_kt", against="reference")
    if rows.empty or not run.rounds:
        return None
    ends = ["value", "low", "high", "floor"]
    columns = ["free_energy_error_kt" + end for end in ("", "_low", "_high", "_floor")]
    tables = {"mean over systems": run.summary[columns].set_axis(ends, axis=1)}
    for system in run.pictured_systems:
        of_system = rows[rows["system"] == system].set_index("ensemble")[ends]
        if len(of_system):
            tables[system] = of_system
    figure, axes = grid(len(tables), columns=3, height=2.2)
    for i, (panel, (title, table)) in enumerate(zip(axes, tables.items(), strict=True)):
        _per_round(panel, run, table)
        panel.set_title(title, fontweight="bold" if i == 0 else "normal")
    figure.supxlabel("round of alignment", fontsize=9)
    figure.supylabel("free-energy error (kT)", fontsize=9)
    legend_above(figure, axes[0])
    return figure


def _per_round(panel: Axes, run: Run, table: pd.DataFrame) -> None:
    values = table["value"].to_dict()
    if "training" in values:
        training = look("training")
        panel.axhline(values["training"], color=training.colour, linestyle=training.line, label=words("training"))
    floors = table["floor"].reindex(run.models).dropna().to_numpy()
    if len(floors):
        panel.axhline(floors.mean(), color=FLOOR_COLOUR, linestyle=(0, (5, 3)), linewidth=1.2, label="floor")
    for k, objective in enumerate(run.objectives):
        for seed in run.named_seeds[1:]:
            others = [aligned_model(objective, r, seed) for r in range(run.rounds + 1)]
            colour = objective_look(objective).colour
            panel.plot(table.reindex(others)["value"].to_numpy(), color=colour, alpha=0.6, linewidth=0.6)
        names = [run.model(objective, r) for r in range(run.rounds + 1)]
        apart = 0.06 * (k - (len(run.objectives) - 1) / 2)  # so that bars do not hide each other
        _bars(
            panel, np.arange(len(names)) + apart, table.reindex(names), objective_look(objective), _objective(objective)
        )
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set(ylim=(0, None))


def _bars(panel: Axes, x: np.ndarray, table: pd.DataFrame, style: Any, label: str, *, line: bool = True) -> None:
    """Values with their intervals."""
    error = np.abs(table[["low", "high"]].to_numpy().T - table["value"].to_numpy())
    panel.errorbar(
        x, table["value"].to_numpy(), yerr=error, color=style.colour, marker=style.marker,
        linestyle=style.line if line else "none", capsize=2, elinewidth=1, label=label,
    )  # fmt: skip


def basin_free_energies(run: Run) -> Figure | None:
    """Free energy of every basin of every residue in the shown ensembles, with intervals."""
    rows = run.select("free_energy_kt", residue="*", basin="*")
    rows = rows[rows["residue"] != ""]  # wells of particles are no Ramachandran basins
    rows = rows[rows["system"].isin(run.pictured_systems) & rows["ensemble"].isin(run.shown)]
    panels = list(rows.groupby(["system", "residue"], sort=False))[:_MOST_BASIN_PANELS]
    if not panels:
        return None
    figure, axes = grid(len(panels), columns=4, height=2.0)
    for panel, ((system, residue), mine) in zip(axes, panels, strict=True):  # type: ignore[misc]
        names = [name for name in run.shown if (mine["ensemble"] == name).any()]
        for j, name in enumerate(names):
            chosen = mine[mine["ensemble"] == name].set_index("basin").reindex(BASINS)
            x = np.arange(len(BASINS)) + 0.16 * (j - (len(names) - 1) / 2)
            _bars(panel, x, chosen, look(name), words(name), line=False)
        panel.set_title(f"{system}: {residue}")
        panel.set_xticks(range(len(BASINS)), [BASIN_WORDS[b] for b in BASINS])
        panel.set(xlim=(-0.5, len(BASINS) - 0.5), ylim=(0, None))
    figure.supxlabel("basin", fontsize=9)
    figure.supylabel("free energy (kT)", fontsize=9)
    legend_above(figure, axes[0])
    return figure


def energy_histograms(run: Run) -> Figure | None:
    """Relaxed energies of the shown ensembles, in kT from the reference's median (or the training MD's)."""
    energies = {s: {n: run.energies_kt(n, s) for n in run.shown} for s in run.pictured_systems}
    energies = {s: {n: u for n, u in of.items() if len(u)} for s, of in energies.items()}
    energies = {s: of for s, of in energies.items() if of}
    if not energies:
        return None
    figure, axes = grid(len(energies), columns=3, height=2.2)
    for panel, (system, of_system) in zip(axes, energies.items(), strict=True):
        _histograms(panel, of_system)
        panel.set_title(system)
    figure.supxlabel("energy above the median of the reference (kT)", fontsize=9)
    figure.supylabel("density (1/kT)", fontsize=9)
    legend_above(figure, axes[0])
    return figure


def _histograms(panel: Axes, of_system: dict[str, np.ndarray]) -> None:
    md = next(
        (of_system[n] for n in ("reference", "training") if n in of_system), np.concatenate([*of_system.values()])
    )
    zero = float(np.median(md))
    low, high = np.quantile(md, [0.002, 0.998]) - zero
    # Room for the models' tails, but not for a few exploded conformers: those are written in the corner.
    high = min(max(high, *(float(np.quantile(u, 0.98)) - zero for u in of_system.values())), 3 * high + 10)
    edges = np.linspace(low - 1, high + 1, 37)
    beyond = []
    for name, u in of_system.items():
        style = look(name)
        # Weights rather than density=True: what lies beyond the axis stays part of the whole.
        weights = np.full(len(u), 1 / (len(u) * (edges[1] - edges[0])))
        panel.hist(
            u - zero, bins=edges.tolist(), weights=weights, histtype="step", color=style.colour, linestyle=style.line,
            linewidth=1.4, label=words(name),
        )  # fmt: skip
        share = float(np.mean(u - zero > edges[-1]))
        if share >= 0.005:
            beyond.append(f"{words(name)}: {100 * share:.1f} % →")
    panel.text(0.99, 0.98, "\n".join(beyond), transform=panel.transAxes, ha="right", va="top", fontsize=6.5)
    panel.set_xlim(edges[0], edges[-1])


def pretraining_curve(run: Run) -> Figure | None:
    """Loss and validation loss of pretraining."""
    curve = training_curve(run, run.pretrained)
    if curve is None:
        return None
    figure = Figure(figsize=(PAGE_INCHES * 0.6, 2.7), layout="constrained")
    panel = figure.subplots()
    style = look(run.pretrained)
    for seed in run.named_seeds[1:]:
        other = training_curve(run, aligned_model(PRETRAINED, 0, seed))
        if other is not None:
            panel.plot(other["step"], smooth(other["loss"]), color=style.colour, alpha=0.6, linewidth=0.6)
    panel.plot(curve["step"], curve["loss"], color=style.colour, alpha=0.35, linewidth=0.8)
    panel.plot(curve["step"], smooth(curve["loss"]), color=style.colour, label="training (running mean)")
    validated = curve.dropna(subset=["validation_loss"])
    panel.plot(
        validated["step"], validated["validation_loss"], color="#000000", marker="o", markersize=3.5, linestyle="--",
        linewidth=1, label="validation frames",
    )  # fmt: skip
    panel.set(xlabel="step", ylabel="denoising loss", yscale="log")
    _plain_log(panel)
    panel.legend()
    return figure


def alignment_curves(run: Run) -> Figure | None:
    """Loss of each objective and the spread of the model's own energy, the rounds one after the other."""
    shown, *others = run.named_seeds
    curves = {objective: _rounds(run, objective, shown) for objective in run.objectives}
    curves = {objective: parts for objective, parts in curves.items() if parts}
    if not curves:
        return None
    figure, axes = grid(len(curves) + 1, columns=3, height=2.5)
    for panel, (objective, parts) in zip(axes, curves.items(), strict=False):
        for seed in others:
            _thin(panel, objective, _rounds(run, objective, seed), "loss")
        _one_after_the_other(panel, objective, parts, "loss")
        panel.set(title=_objective(objective), ylabel="loss")
    for objective, parts in curves.items():
        if any(part["model_energy_spread"].notna().any() for part in parts):  # the control has no groups
            for seed in others:
                _thin(axes[-1], objective, _rounds(run, objective, seed), "model_energy_spread")
            _one_after_the_other(axes[-1], objective, parts, "model_energy_spread")
            _errors_of_differences(axes[-1], objective, parts)
    if axes[-1].get_legend_handles_labels()[0]:
        axes[-1].legend()
    axes[-1].set(title="spread of the model's energy", ylabel="spread in a group (nats)", ylim=(0, None))
    figure.supxlabel("step of alignment, all rounds", fontsize=9)
    return figure


def _rounds(run: Run, objective: str, seed: int | None) -> list[pd.DataFrame]:
    """Curves of an objective's rounds of one seed, with the steps of all rounds counted in ``total``."""
    parts: list[pd.DataFrame] = []
    start = 0
    for r in range(1, run.rounds + 1):
        part = training_curve(run, aligned_model(objective, r, seed))
        if part is not None and len(part):
            parts.append(part.assign(total=part["step"] + start))
            start += int(part["step"].max()) + 1
    return parts


def _one_after_the_other(panel: Axes, objective: str, parts: list[pd.DataFrame], column: str) -> None:
    style = objective_look(objective)
    for k, part in enumerate(parts):
        if k:
            panel.axvline(part["total"].min(), color="#cccccc", linewidth=0.8)
        panel.plot(part["total"], part[column], color=style.colour, alpha=0.3, linewidth=0.7)
        label = _objective(objective) if k == 0 else None
        panel.plot(part["total"], smooth(part[column]), color=style.colour, linestyle=style.line, label=label)


def _thin(panel: Axes, objective: str, parts: list[pd.DataFrame], column: str) -> None:
    """Another seed's curves, smoothed."""
    for part in parts:
        colour = objective_look(objective).colour
        panel.plot(part["total"], smooth(part[column]), color=colour, alpha=0.6, linewidth=0.6)


def _errors_of_differences(panel: Axes, objective: str, parts: list[pd.DataFrame]) -> None:
    """Standard error of the group's energy differences, where it was kept: thin and dotted."""
    for k, part in enumerate(parts):
        if "model_energy_error" in part and part["model_energy_error"].notna().any():
            label = f"{_objective(objective)}: error of a difference" if k == 0 else None
            colour = objective_look(objective).colour
            values = smooth(part["model_energy_error"])
            panel.plot(part["total"], values, color=colour, linestyle=":", linewidth=1.0, label=label)


def effective_sample_sizes(run: Run) -> Figure | None:
    """Effective sample size of each system's pool, per round of alignment."""
    pools = pool_weights(run)
    shown = [run.model(objective, r) for objective in run.objectives for r in range(1, run.rounds + 1)]
    pools = pools[(pools["objective"].map(objective_of) != "none") & pools["system"].isin(run.pictured_systems)]
    pools = pools[pools["model"].isin(shown)]
    if pools.empty:
        return None
    objectives = list(dict.fromkeys(pools["objective"]))
    figure, axes = grid(len(objectives), columns=2, height=2.7)
    markers = "osv^DXP*<>"
    for panel, objective in zip(axes, objectives, strict=True):
        mine = pools[pools["objective"] == objective]
        for k, (system, rows) in enumerate(mine.groupby("system", sort=False)):
            shade = str(0.1 + 0.55 * k / max(1, mine["system"].nunique() - 1))
            panel.plot(rows["round"], rows["ess"], marker=markers[k % len(markers)], color=shade, label=str(system))
        panel.axhline(mine["conformers"].median(), color=FLOOR_COLOUR, linestyle=(0, (5, 3)), linewidth=1, label="pool")
        panel.set(xlabel="round", ylabel="effective conformers", title=_objective(objective))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain_log(panel)
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def smooth(values: pd.Series) -> pd.Series:
    """Running mean over a twentieth of the curve."""
    window = max(1, len(values) // 20)
    return values.rolling(window, center=True, min_periods=1).mean()


def _objective(objective: str) -> str:
    """An objective in words, without a round."""
    return line_words(objective)


def _plain_log(panel: Axes) -> None:
    """A logarithmic axis with plain numbers: 1, 2, 5, and all between them where it is short."""
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    between = (2, 5) if high / low > 12 else range(2, 10)
    panel.yaxis.set_minor_locator(LogLocator(subs=tuple(between)))
    panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    panel.yaxis.set_minor_formatter(FormatStrFormatter("%g"))
    panel.tick_params(axis="y", which="minor", labelsize=7)


def legend_above(figure: Figure, panel: Axes) -> None:
    """One legend for all panels, above them, in as many columns as the figure has room for."""
    handles, labels = panel.get_legend_handles_labels()
    for columns in range(min(len(labels), 6), 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper left", ncols=columns)
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            return
        legend.remove()
