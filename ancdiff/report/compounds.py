"""The report of a run on a set of compounds: one self-contained page."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from ancdiff.artifacts import read_json, read_table, write_text
from ancdiff.bonds import bond_lengths, bond_orders, stable_atoms
from ancdiff.compound_files import read_compounds
from ancdiff.compounds import SYMBOLS, Compounds
from ancdiff.config import Config, StageConfig
from ancdiff.corridor import TEST_PART, Layout, pretrained_models
from ancdiff.provenance import made_by
from ancdiff.report.page import Picture, own_file, picture, write_png
from ancdiff.report.style import ELEMENT_COLOURS, house_style

_SHARES = {
    "atom_stability": ("atoms stable", "#0072B2", "o"),
    "molecule_stability": ("compounds stable", "#D55E00", "s"),
    "validity": ("valid", "#009E73", "^"),
    "one_piece": ("in one piece", "#E69F00", "D"),
    "uniqueness": ("unique", "#CC79A7", "v"),
}
_COLOURS = ELEMENT_COLOURS | {"F": "#009E73"}
_PICTURED, _PANELS = 12, 6


def run(settings: StageConfig, *, results: Path) -> None:
    """Write ``report.html`` and its figures as PNG. Reads and writes the disk; draws no randomness.

    Raises:
        InputError: the run has not been evaluated.
    """
    layout = Layout(results)
    ((system, described),) = settings.systems.items()
    paths = [results / "evaluate" / name for name in ("metrics.parquet", "summary.parquet")]
    summary = read_table(paths[1])
    metrics = read_json(results / "evaluate" / "metrics.json")["metrics"]
    model = pretrained_models(Config(run=settings.run))[0]
    generated = read_compounds(layout.generated(model, system, settings.generate.evaluations))
    training = read_compounds(layout.part("train", system))
    curve = read_table(layout.model(model).parent / "metrics.parquet")
    with house_style():
        pictures = [
            *picture("compound_quality", quality_figure(summary)),
            *picture("compound_lengths", lengths_figure(generated, training)),
            *picture("compound_gallery", gallery_figure(generated)),
            *picture("compound_training", training_figure(curve)),
        ]
    for one in pictures:
        write_png(results / "report" / "figures" / f"{one.name}.png", one.png)
    record = made_by("report", settings=settings.as_dict(), seed=None, parents=paths)
    checks = read_json(results / "dataset" / "checks.json")["systems"][system]
    write_text(
        results / "report.html", _page(settings, described.compounds, (metrics, summary), checks, pictures, record)
    )


def _page(
    settings: StageConfig,
    compounds: Any,
    evaluated: tuple[dict[str, Any], pd.DataFrame],
    checks: dict[str, Any],
    pictures: list[Picture],
    record: dict[str, Any],
) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    metrics, summary = evaluated
    shown = {name: metrics[name] for name in summary.columns if name in metrics}
    return environment.get_template("compounds.html.j2").render(
        title=settings.report.title,
        run_name=settings.run.name,
        css=own_file("report.css"),
        version=record["versions"]["ancdiff"] or "",
        source=compounds.source,
        checks=checks,
        columns=[{"name": _title(name), "unit": unit, "words": words} for name, (unit, words) in shown.items()],
        rows=[_cells(row, shown) for row in summary.to_dict("records")],
        sentences=sentences(summary),
        pictures=pictures,
        stamp=record["code_stamp"],
    )


def sentences(summary: pd.DataFrame) -> list[str]:
    """What the run found, from its numbers."""
    main = summary[summary["ensemble"] != TEST_PART].iloc[0]
    data = summary[summary["ensemble"] == TEST_PART].iloc[0]
    out = []
    for metric in ("atom_stability", "molecule_stability", "validity"):
        out.append(
            f"{_title(metric).capitalize()}: {_number(main, metric)} of {main['compounds']:,} generated compounds with "
            f"{main['evaluations']} network evaluations each; the data's own test part scores {_number(data, metric)}."
        )
    return out


def _title(metric: str) -> str:
    words = metric.removesuffix("_nm").removesuffix("_deg").removesuffix("_kj_mol").removesuffix("_nats")
    return words.replace("_", " ").replace("nll", "NLL")


def _number(row: Any, metric: str, unit: str = "") -> str:
    value = row[metric]
    if value != value:
        return "–"
    return f"{100 * value:.2f} %" if unit == "" else f"{value:.4g}"


def _cells(row: Any, shown: dict[str, Any]) -> dict[str, Any]:
    cells = []
    for metric, (unit, _) in shown.items():
        low, high = row[f"{metric}_low"], row[f"{metric}_high"]
        scale = 100 if unit == "" else 1
        small = "" if low != low else f"{scale * low:.4g} – {scale * high:.4g}"
        cells.append({"text": _number(row, metric, unit), "small": small})
    name = f"{row['ensemble']}, {row['evaluations']} evaluations"
    if row["ensemble"] == TEST_PART:
        name = "test part of the data"
    return {"name": name, "compounds": f"{row['compounds']:,}", "cells": cells}


def quality_figure(summary: pd.DataFrame) -> Figure:
    """Shares against network evaluations."""
    figure, axes = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
    data, models = summary[summary["ensemble"] == TEST_PART], summary[summary["ensemble"] != TEST_PART]
    models = models[models["ensemble"] == models["ensemble"].iloc[0]].sort_values("evaluations")
    x = models["evaluations"].to_numpy(dtype=float)
    for metric, (label, colour, marker) in _SHARES.items():
        value = models[metric].to_numpy(dtype=float)
        ends = np.abs(np.stack([models[f"{metric}_low"], models[f"{metric}_high"]]).astype(float) - value)
        axes.errorbar(x, value, yerr=np.nan_to_num(ends), color=colour, marker=marker, capsize=2, label=label)
        axes.axhline(float(data[metric].iloc[0]), color=colour, linestyle="--", linewidth=0.8)
    axes.set(xscale="log", xlabel="network evaluations", ylabel="share", ylim=(0, 1.02))
    axes.set_xticks(x, [f"{n:g}" for n in x])
    axes.minorticks_off()
    axes.legend(loc="lower right")
    return figure


def lengths_figure(generated: Compounds, training: Compounds) -> Figure:
    """Histograms of the most frequent kinds of bond."""
    mine, data = bond_lengths(generated), bond_lengths(training)
    kinds = sorted(data, key=lambda kind: -len(data[kind][0]))[:_PANELS]
    figure, panels = plt.subplots(2, 3, figsize=(7.2, 3.8), layout="constrained")
    for axes, kind in zip(panels.flat, kinds, strict=False):
        low, high = np.quantile(data[kind][0], [0.001, 0.999])
        edges = np.linspace(low - 0.01, high + 0.01, 60)
        lengths = mine[kind][0] if kind in mine else np.zeros(0)
        inside = lengths[(lengths >= edges[0]) & (lengths <= edges[-1])]
        if len(inside):
            axes.hist(inside, edges, density=True, color="#56B4E9", label="generated")
        axes.hist(data[kind][0], edges, density=True, histtype="step", color="#000000", label="training part")
        axes.set(title=kind.replace("-", "–"), xlabel="nm", yticks=[])
    for axes in panels.flat[len(kinds) :]:
        axes.set_axis_off()
    panels.flat[0].legend(fontsize=7)
    return figure


def gallery_figure(compounds: Compounds) -> Figure:
    """The first compounds as sticks, each seen along its thinnest direction."""
    figure, panels = plt.subplots(2, _PICTURED // 2, figsize=(7.2, 2.8), layout="constrained")
    for axes, (numbers, positions) in zip(panels.flat, compounds, strict=False):
        x = positions - positions.mean(axis=0)
        flat = x @ np.linalg.svd(x, full_matrices=False)[2][:2].T
        colours = [_COLOURS[SYMBOLS[int(n)]] for n in numbers]
        for i, j in np.argwhere(np.triu(bond_orders(numbers, positions))):
            axes.plot(*flat[[i, j]].T, color="#999999", linewidth=1.2, zorder=1)
        axes.scatter(*flat.T, c=colours, s=np.where(numbers == 1, 10, 26), zorder=2)
        wrong = flat[~stable_atoms(numbers, positions)]
        axes.scatter(*wrong.T, facecolors="none", edgecolors="#CC0000", s=60, linewidths=0.9, zorder=3)
        axes.set_aspect("equal")
        axes.margins(0.2)  # whole atoms at the edges
    for axes in panels.flat:
        axes.set_axis_off()
    return figure


def training_figure(curve: pd.DataFrame) -> Figure:
    """Loss against step."""
    figure, axes = plt.subplots(figsize=(5.4, 2.8), layout="constrained")
    window = max(1, len(curve) // 50)
    smooth = curve["loss"].rolling(window, min_periods=1).mean()
    axes.plot(curve["step"], smooth, color="#56B4E9", label="training")
    held = curve.dropna(subset=["validation_loss"])
    axes.plot(held["step"], held["validation_loss"], color="#000000", marker="o", markersize=3, label="validation")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    return figure
