"""The page: figures become images inside it, tables and sentences come from the numbers, the template lays them out."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ancdiff.report import conformers, figures, findings, tables
from ancdiff.report.collect import Run, records, stage_times
from ancdiff.report.style import ELEMENT_COLOURS, house_style

_FOLDER = Path(__file__).parent
_SCREEN_DPI, _FILE_DPI = 150, 220


@dataclass(frozen=True)
class Picture:
    """A figure as it stands on the page, and as a PNG for slides."""

    name: str
    title: str
    caption: str
    alt: str
    source: str
    png: bytes
    wide: bool


@dataclass(frozen=True)
class Section:
    """A part of the page with figures."""

    id: str
    title: str
    words: str
    figures: list[Picture]


def picture(name: str, figure: Figure | None, *, title: str, caption: str, alt: str) -> list[Picture]:
    """A figure drawn; none where there is nothing to show."""
    if figure is None:
        return []
    figure.draw_without_rendering()  # lays the panels out, once for both files
    figure.set_layout_engine("none")
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", dpi=_SCREEN_DPI, metadata={"Date": None})
    figure.savefig(png, format="png", dpi=_FILE_DPI)
    source = "data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode("ascii")
    return [Picture(name, title, caption, alt, source, png.getvalue(), wide=figure.get_figwidth() > 5.5)]


def draw(run: Run) -> list[Section]:
    """All sections with figures; those that would be empty are left out."""
    with house_style():
        drawn = list(_sections(run))
    return [section for section in drawn if section.figures]


def _sections(run: Run) -> Iterator[Section]:
    yield Section("free-energies", "Do the populations come right?", "", _free_energies(run))
    yield Section(
        "maps", "Ramachandran maps",
        "Each panel is −ln of the density of (φ, ψ), in kT from its deepest point. Dashed lines are the borders of the basins "
        "that are counted. A model has fewer conformers than the MD, so that its rare regions are ragged or empty.", _maps(run),
    )  # fmt: skip
    yield Section("energies", "Energies", "", _energies(run))
    yield Section(
        "conformers", "Conformers",
        f"{run.settings.report.pictured_conformers} conformers of each ensemble, evenly spaced, laid upon one backbone.",
        _conformers(run),
    )  # fmt: skip
    yield Section("training", "Training and alignment", "", _training(run))


def _free_energies(run: Run) -> list[Picture]:
    return picture(
        "free_energy_per_round", figures.free_energy_per_round(run), title="Error of the basin free energies after each round",
        caption="RMS over residues and counted basins of F − F(reference), with 95 % bootstrap intervals. Alignment works where "
        "its line falls towards the dashed floor (one half of the reference against the other) and the control's does not; "
        "the dotted line is the training MD.",
        alt="Line plots of the free-energy error in kT against the round of alignment, one line per objective, for the mean "
        "over systems and for each system.",
    ) + picture(
        "basin_free_energies", figures.basin_free_energies(run), title="Free energies of the basins",
        caption="F = −ln(population) of each residue's basins, with 95 % bootstrap intervals; low is populated. An aligned model is "
        "right where its marker meets the black diamonds of the reference.",
        alt="Dot plots of basin free energies in kT for each residue; one marker per ensemble, with error bars.",
    )  # fmt: skip


def _maps(run: Run) -> list[Picture]:
    drawn = []
    for system, settings in run.settings.systems.items():
        molecule = settings.sequence or settings.topology
        drawn += picture(
            f"ramachandran_{system}", figures.ramachandran_maps(run, system), title=f"{system} ({molecule})",
            caption="Compare each model with its neighbours: the pretrained one with the training MD on its left, the aligned one "
            "with the reference MD at the right end.",
            alt=f"Ramachandran free-energy maps of {system}, one column per ensemble, one row per residue; φ and ψ in degrees.",
        )  # fmt: skip
    return drawn


def _energies(run: Run) -> list[Picture]:
    return picture(
        "energies", figures.energy_histograms(run), title="Force-field energies of relaxed conformers",
        caption="Zero is the median of the MD. A model that samples well lies upon the black line; a tail to the right is strain. "
        "Shares that lie beyond the axis are written in the corner.",
        alt="Histograms of relaxed energies in kT for each system, one line per ensemble.",
    )  # fmt: skip


def _conformers(run: Run) -> list[Picture]:
    drawn = []
    for system in run.systems:
        drawn += picture(
            f"conformers_{system}", conformers.stick_drawing(run, system), title=f"{system}: superposed conformers",
            caption="Heavy atoms: carbon grey, nitrogen blue, oxygen orange-red; paler is farther. Look for the same fan of "
            "directions as in the reference MD, and for bonds that do not belong.",
            alt=f"Stick drawings of superposed conformers of {system}, one panel per ensemble.",
        )  # fmt: skip
    return drawn


def _training(run: Run) -> list[Picture]:
    return (
        picture(
            "pretraining", figures.pretraining_curve(run), title="Pretraining",
            caption="Denoising loss on batches of training frames (pale: each record) and on frames kept for validation. A gap "
            "that opens between the two is learning by heart.",
            alt="Line plot of the denoising loss against the step, logarithmic, with validation points.",
        )
        + picture(
            "alignment", figures.alignment_curves(run), title="Alignment",
            caption="Loss of each objective, and how far the model's own energy spreads within a group of conformers; grey lines "
            "part the rounds. A spread that keeps growing warns that samples are about to go bad.",
            alt="Line plots against the step of alignment: the loss of each objective, and the spread of the model's energy in nats.",
        )
        + picture(
            "effective_sample_sizes", figures.effective_sample_sizes(run), title="Effective sample sizes",
            caption="How many conformers of each system's pool carry the Boltzmann weight, 1/Σw²; dashed: the size of the pool. "
            "Near one, a single conformer decides.",
            alt="Line plot of the effective sample size of each system's pool against the round, logarithmic.",
        )
    )  # fmt: skip


def render(run: Run, sections: list[Section], *, record: dict[str, Any], version: str) -> str:
    """The whole page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    view = conformers.view_data(run)
    contents = [("short", "In short"), ("run", "What was run"), ("table", "Table"), ("systems", "By system")]
    contents += [(s.id, s.title) for s in sections]
    contents += [("times", "Times"), ("made", "What made it"), ("rerun", "Run it again"), ("cite", "Cite")]
    return environment.get_template("report.html.j2").render(
        title=run.settings.report.title,
        run_name=run.settings.run.name,
        seed=run.settings.run.seed,
        n_systems=len(run.systems),
        version=version,
        css=_own_file("report.css"),
        script=_own_file("viewer.js"),
        contents=contents,
        tiles=findings.tiles(run),
        findings=findings.findings(run),
        cautions=findings.cautions(run),
        story=findings.story(run),
        systems=tables.systems(run),
        headline=tables.headline(run),
        per_system=tables.per_system(run),
        sections=sections,
        # In a script element only "<" could end the data.
        view=Markup(json.dumps(view, separators=(",", ":")).replace("<", "\\u003c")) if view else "",  # noqa: S704
        key=[(name, ELEMENT_COLOURS[e]) for e, name in (("C", "carbon"), ("N", "nitrogen"), ("O", "oxygen"))],
        times=_times(run),
        records=[_record(r) for r in [*records(run), {"artifact": "report", **record}]],
        commands=_commands(run),
        citations=findings.citations(run),
    )


def _own_file(name: str) -> Markup:
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))  # noqa: S704


def _times(run: Run) -> list[dict[str, str]]:
    return [
        {
            "stage": str(row.stage),
            "jobs": str(row.jobs),
            "time": tables.duration(float(row.seconds)),  # type: ignore[arg-type]
            "memory": f"{row.peak_mib:,.0f} MiB" if row.peak_mib == row.peak_mib else "–",
        }
        for row in stage_times(run).itertuples()
    ]


def _record(record: dict[str, Any]) -> dict[str, str]:
    """A provenance record in words; `versions` names only what is installed."""
    versions = {k: v for k, v in record.get("versions", {}).items() if v}
    return {
        "artifact": record["artifact"],
        "stage": record.get("stage", ""),
        "seed": "–" if record.get("seed") is None else str(record["seed"]),
        "code_stamp": record.get("code_stamp", ""),
        "versions": ", ".join(f"{name} {v}" for name, v in versions.items()),
        "settings": json.dumps(record.get("settings", {}), indent=1, sort_keys=True, ensure_ascii=False),
    }


def _commands(run: Run) -> str:
    name = run.settings.run.name
    return "\n".join(
        [
            "snakemake --cores all                                   # the default run (config.yaml)",
            f"snakemake --cores all --configfile configs/{name}.yaml   # a run with its own file",
            "snakemake --cores all --dry-run                         # what would be run, and why",
            f"ancdiff report --results {run.root.as_posix() if not run.root.is_absolute() else 'results/' + name}"
            "  --config config.yaml   # this page alone",
        ]
    )
