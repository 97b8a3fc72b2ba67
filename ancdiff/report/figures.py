"""The figures of the report. Each function draws one matplotlib figure from a run; nothing here touches the disk."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ancdiff.basins import BASINS, ramachandran
from ancdiff.corridor import aligned_model
from ancdiff.report.collect import Run, available, pool_weights, training_curve, words
from ancdiff.report.style import FLOOR_COLOUR, look, objective_look

BASIN_WORDS = {"alpha_r": "αR", "beta": "β", "alpha_l": "αL"}
_MAP_BINS = 45
_MAP_DEPTH_KT = 6.0
_TICKS_DEG = (-180, -90, 0, 90, 180)


def grid(panels: int, *, columns: int, width: float = 8.0, height: float = 2.4) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels; those that are left over are taken away."""
    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(width * columns / 3 if columns < 3 else width, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.remove()
    return figure, axes[:panels]


def ramachandran_maps(run: Run, system: str) -> Figure | None:
    """Free-energy maps −ln(p/p_max) of every residue, one column per shown ensemble; None without residues."""
    names = available(run, system, run.shown)
    angles = {}
    for name in names:
        ensemble = run.ensemble(name, system)
        assert ensemble is not None
        residues, phi_psi = ramachandran(ensemble)
        angles[name] = np.degrees(phi_psi)
    if not names or not residues:
        return None
    molecule = ensemble.molecule
    size = 1.75
    figure = Figure(figsize=(size * len(names) + 0.9, size * len(residues) + 0.75), layout="constrained")
    axes = figure.subplots(len(residues), len(names), squeeze=False, sharex=True, sharey=True)
    mesh = None
    for i, residue in enumerate(residues):
        for j, name in enumerate(names):
            panel = axes[i, j]
            mesh = _map(panel, angles[name][:, i])
            if i == 0:
                panel.set_title(f"{words(name)}\n{len(angles[name]):,} conformers")
            if j == 0:
                panel.set_ylabel(f"{molecule.residue_names[residue]}{residue + 1}   ψ (°)")
            if i == len(residues) - 1:
                panel.set_xlabel("φ (°)")
    bar = figure.colorbar(mesh, ax=axes, shrink=0.9 if len(residues) == 1 else 0.5, aspect=18, pad=0.015, extend="max")
    bar.set_label("free energy (kT)")
    return figure


def _map(panel: Axes, phi_psi_deg: np.ndarray) -> object:
    edges = np.linspace(-180, 180, _MAP_BINS + 1)
    counts, _, _ = np.histogram2d(phi_psi_deg[:, 0], phi_psi_deg[:, 1], bins=[edges, edges])
    with np.errstate(divide="ignore"):
        free = -np.log(counts / counts.max())
    free[~np.isfinite(free)] = np.nan
    mesh = panel.pcolormesh(edges, edges, free.T, cmap="cividis", vmin=0, vmax=_MAP_DEPTH_KT, rasterized=True)
    lines = {"color": "#999999", "linewidth": 0.6, "linestyle": (0, (4, 3))}
    panel.plot([0, 0], [-180, 180], **lines)
    for psi in (-120, 50):  # the basins' borders for φ ≤ 0
        panel.plot([-180, 0], [psi, psi], **lines)
    for name, x, y in (("alpha_r", -172, -112), ("beta", -172, 58), ("alpha_l", 8, -172)):
        panel.text(x, y, BASIN_WORDS[name], fontsize=7.5, color="#555555", va="bottom")
    panel.set(xlim=(-180, 180), ylim=(-180, 180), xticks=_TICKS_DEG, yticks=_TICKS_DEG, aspect="equal")
    panel.tick_params(axis="x", labelsize=7, rotation=45)
    panel.tick_params(axis="y", labelsize=7)
    for side in ("top", "right"):
        panel.spines[side].set_visible(True)
    return mesh


def free_energy_per_round(run: Run) -> Figure | None:
    """Basin free-energy error after each round, for each objective: the mean over systems, then each system."""
    rows = run.select("free_energy_error_kt", against="reference")
    if rows.empty:
        return None
    systems = [s for s in run.systems if (rows["system"] == s).any()]
    figure, axes = grid(1 + len(systems), columns=3, height=2.3)
    column = "free_energy_error_kt"
    mean = run.summary[[column, f"{column}_low", f"{column}_high", f"{column}_floor"]]
    mean = mean.set_axis(["value", "low", "high", "floor"], axis=1)
    tables = [("mean over systems", mean)]
    tables += [(s, rows[rows["system"] == s].set_index("ensemble")[["value", "low", "high", "floor"]]) for s in systems]
    for i, (panel, (title, table)) in enumerate(zip(axes, tables, strict=True)):
        _per_round(panel, run, table)
        panel.set_title(title, fontweight="bold" if i == 0 else "normal")
        panel.set_xlabel("round of alignment (0: pretrained)")
        panel.set_ylabel("free-energy error (kT)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _per_round(panel: Axes, run: Run, table: pd.DataFrame) -> None:
    if "training" in table.index:
        training = look("training")
        panel.axhline(
            table.loc["training", "value"], color=training.colour, linestyle=training.line, label="training MD"
        )
    floors = table.loc[[m for m in run.models if m in table.index], "floor"]
    panel.axhline(floors.mean(), color=FLOOR_COLOUR, linestyle=(0, (5, 3)), linewidth=1.2, label="floor")
    for k, objective in enumerate(run.objectives):
        names = [aligned_model(objective, r) for r in range(run.rounds + 1)]
        chosen = table.reindex(names)
        rounds = np.arange(len(names)) + 0.06 * (k - (len(run.objectives) - 1) / 2)  # apart, so that bars can be seen
        error = np.abs(chosen[["low", "high"]].to_numpy().T - chosen["value"].to_numpy())
        style = objective_look(objective)
        panel.errorbar(
            rounds, chosen["value"], yerr=error, color=style.colour, marker=style.marker, linestyle=style.line,
            capsize=2, elinewidth=1, label=words(names[-1]).split(",")[0],
        )  # fmt: skip
    panel.set(xticks=range(run.rounds + 1), ylim=(0, None))


def basin_free_energies(run: Run) -> Figure | None:
    """Free energy of every basin of every residue in the shown ensembles, with intervals."""
    rows = run.select("free_energy_kt", residue="*", basin="*")
    if rows.empty:
        return None
    systems = [s for s in run.systems if (rows["system"] == s).any()]
    residues = {s: list(dict.fromkeys(rows.loc[rows["system"] == s, "residue"])) for s in systems}
    panels = [(s, r) for s in systems for r in residues[s]]
    figure, axes = grid(len(panels), columns=4, height=2.2)
    for k, (panel, (system, residue)) in enumerate(zip(axes, panels, strict=True)):
        mine = rows[(rows["system"] == system) & (rows["residue"] == residue)].set_index(["ensemble", "basin"])
        names = [n for n in run.shown if n in mine.index.get_level_values(0)]
        for j, name in enumerate(names):
            chosen = mine.loc[name].reindex(BASINS)
            x = np.arange(len(BASINS)) + 0.16 * (j - (len(names) - 1) / 2)
            error = np.abs(chosen[["low", "high"]].to_numpy().T - chosen["value"].to_numpy())
            style = look(name)
            panel.errorbar(
                x, chosen["value"], yerr=error, color=style.colour, marker=style.marker, linestyle="none",
                capsize=1.5, elinewidth=1, label=words(name),
            )  # fmt: skip
        panel.set_title(f"{system}: {residue}")
        panel.set_xticks(range(len(BASINS)), [BASIN_WORDS[b] for b in BASINS])
        panel.set(xlim=(-0.5, len(BASINS) - 0.5), ylim=(0, None))
        if k % 4 == 0:
            panel.set_ylabel("free energy (kT)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    return figure


def energy_histograms(run: Run) -> Figure | None:
    """Relaxed energies of the shown ensembles, in kT from the reference's median (or the training MD's)."""
    energies = {s: {n: run.energies_kt(n, s) for n in run.shown} for s in run.systems}
    systems = [s for s in run.systems if any(len(u) for u in energies[s].values())]
    if not systems:
        return None
    figure, axes = grid(len(systems), columns=3, height=2.3)
    for panel, system in zip(axes, systems, strict=True):
        of_system = {n: u for n, u in energies[system].items() if len(u)}
        md = next(
            (of_system[n] for n in ("reference", "training") if n in of_system), np.concatenate([*of_system.values()])
        )
        zero = np.median(md)
        low, high = np.quantile(md, [0.002, 0.998]) - zero
        edges = np.linspace(low - 4, high + 12, 56)
        beyond = []
        for name, u in of_system.items():
            style = look(name)
            # Weights rather than density=True: what lies beyond the axis stays part of the whole.
            weights = np.full(len(u), 1 / (len(u) * (edges[1] - edges[0])))
            panel.hist(
                u - zero, bins=edges.tolist(), weights=weights, histtype="step", color=style.colour,
                linestyle=style.line, linewidth=1.4, label=words(name),
            )  # fmt: skip
            share = np.mean(u - zero > edges[-1])
            if share > 0:
                beyond.append(f"{words(name)}: {100 * share:.2g} % →")
        panel.text(0.98, 0.97, "\n".join(beyond), transform=panel.transAxes, ha="right", va="top", fontsize=6.5)
        panel.set_title(system)
        panel.set_xlabel(f"energy − median of the {'reference' if 'reference' in of_system else 'training'} MD (kT)")
        panel.set_ylabel("density (1/kT)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    return figure


def pretraining_curve(run: Run) -> Figure | None:
    """Loss and validation loss of pretraining."""
    curve = training_curve(run, "pretrain")
    if curve is None:
        return None
    figure = Figure(figsize=(5.4, 2.6), layout="constrained")
    panel = figure.subplots()
    style = look("pretrain")
    panel.plot(curve["step"], curve["loss"], color=style.colour, alpha=0.35, linewidth=0.8)
    panel.plot(curve["step"], smooth(curve["loss"]), color=style.colour, label="training (running mean)")
    validated = curve.dropna(subset="validation_loss")
    panel.plot(
        validated["step"], validated["validation_loss"], color="#000000", marker="o", markersize=3.5, linestyle="--",
        linewidth=1, label="validation frames",
    )  # fmt: skip
    panel.set(xlabel="step", ylabel="denoising loss", yscale="log")
    panel.legend()
    return figure


def alignment_curves(run: Run) -> Figure | None:
    """Loss of each objective and the spread of the model's own energy, the rounds one after the other."""
    curves = {}
    for objective in run.objectives:
        parts, start = [], 0
        for r in range(1, run.rounds + 1):
            part = training_curve(run, aligned_model(objective, r))
            if part is not None and len(part):
                parts.append(part.assign(total=part["step"] + start))
                start = int(parts[-1]["total"].iloc[-1]) + 1
        if parts:
            curves[objective] = parts
    if not curves:
        return None
    figure, axes = grid(len(curves) + 1, columns=3, height=2.4)
    for panel, (objective, parts) in zip(axes, curves.items(), strict=False):
        _rounds_one_after_the_other(panel, objective, parts, "loss")
        panel.set(title=f"{words(aligned_model(objective, 1)).split(',')[0]}: loss", ylabel="loss")
    spread = axes[-1]
    for objective, parts in curves.items():
        _rounds_one_after_the_other(spread, objective, parts, "model_energy_spread")
    spread.set(title="spread of the model's energy in a group", ylabel="spread (nats)", ylim=(0, None))
    for panel in axes:
        panel.set_xlabel("step of alignment, all rounds")
    return figure


def _rounds_one_after_the_other(panel: Axes, objective: str, parts: list[pd.DataFrame], column: str) -> None:
    style = objective_look(objective)
    for k, part in enumerate(parts):
        if k:
            panel.axvline(part["total"].iloc[0], color="#cccccc", linewidth=0.8)
        panel.plot(part["total"], part[column], color=style.colour, alpha=0.3, linewidth=0.7)
        panel.plot(part["total"], smooth(part[column]), color=style.colour, linestyle=style.line)


def effective_sample_sizes(run: Run) -> Figure | None:
    """Effective sample size of each system's pool, per round of alignment."""
    pools = pool_weights(run)
    pools = pools[pools["objective"] != "none"]
    if pools.empty:
        return None
    objectives = list(dict.fromkeys(pools["objective"]))
    figure, axes = grid(len(objectives), columns=2, width=10.5, height=2.7)
    markers = "osv^DXP*<>"
    for panel, objective in zip(axes, objectives, strict=True):
        mine = pools[pools["objective"] == objective]
        for k, (system, rows) in enumerate(mine.groupby("system", sort=False)):
            shade = str(0.15 + 0.5 * k / max(1, mine["system"].nunique() - 1))
            panel.plot(rows["round"], rows["ess"], marker=markers[k % len(markers)], color=shade, label=str(system))
        panel.axhline(mine["conformers"].median(), color=FLOOR_COLOUR, linestyle=(0, (5, 3)), linewidth=1, label="pool")
        panel.set(yscale="log", xlabel="round", ylabel="effective conformers", xticks=sorted(set(mine["round"])))
        panel.set_title(words(aligned_model(objective, 1)).split(",")[0])
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def smooth(values: pd.Series) -> pd.Series:
    """Running mean over a twentieth of the curve."""
    window = max(1, len(values) // 20)
    return values.rolling(window, center=True, min_periods=1).mean()
