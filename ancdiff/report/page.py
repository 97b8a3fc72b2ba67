"""The page: figures become images inside it, tables and sentences come from the numbers, the template lays them out."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ancdiff.artifacts import write_atomically
from ancdiff.config import RunSettings
from ancdiff.origins import describe
from ancdiff.report import conformers, figures, findings, particles, tables
from ancdiff.report.captions import CAPTIONS
from ancdiff.report.collect import Run, records, stage_times
from ancdiff.report.style import ELEMENT_COLOURS, house_style

_FOLDER = Path(__file__).parent
_SCREEN_DPI, _FILE_DPI = 150, 220
_WIDE_INCHES = 5.5
_FIGURES_OF_ALL_SEEDS = ("free_energy_per_round", "errors_per_step", "pretraining", "alignment")
_MAP_WORDS = (
    "Each panel is −ln of the density of (φ, ψ), in kT from its deepest point. Dashed lines are the borders of the "
    "basins that are counted. A model has fewer conformers than the MD, so that its rare regions are ragged or empty."
)


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


def picture(name: str, figure: Figure | None, **words: str) -> list[Picture]:
    """A figure drawn, with its caption; none where there is nothing to show.

    The name is that of its caption, with ``words["system"]`` appended in file names.
    """
    if figure is None:
        return []
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # lays the panels out, once for both files
        figure.set_layout_engine("none")
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", dpi=_SCREEN_DPI, metadata={"Date": None})
    figure.savefig(png, format="png", dpi=_FILE_DPI)
    caption = CAPTIONS[name]
    return [
        Picture(
            name="_".join([name, *filter(None, [words.get("system")])]),
            title=caption.title.format(**words),
            caption=caption.see.format(**words),
            alt=caption.alt.format(**words),
            source="data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode("ascii"),
            png=png.getvalue(),
            wide=bool(figure.get_figwidth() > _WIDE_INCHES),
        )
    ]


def write_png(path: Path, png: bytes) -> None:
    """Write a figure atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(png)

    write_atomically(path, write)


def draw(run: Run) -> list[Section]:
    """All sections with figures; those that would be empty are left out."""
    with house_style():
        drawn = list(_sections(run))
    return [_with_seed_words(run, section) for section in drawn if section.figures]


def _with_seed_words(run: Run, section: Section) -> Section:
    """Captions that say which seed a figure shows, in a run with several."""
    if len(run.seeds) < 2:
        return section
    said = f" Shown is seed {run.seeds[0]}, the first of {len(run.seeds)}"
    thin = "; thin lines are the other seeds."
    figures = [
        replace(p, caption=p.caption + said + (thin if p.name in _FIGURES_OF_ALL_SEEDS else "."))
        for p in section.figures
    ]
    return replace(section, figures=figures)


def _sections(run: Run) -> Iterator[Section]:
    populations = picture("free_energy_per_round", figures.free_energy_per_round(run))
    populations += picture("errors_per_step", particles.errors_per_step(run))
    populations += picture("basin_free_energies", figures.basin_free_energies(run))
    yield Section("populations", "Populations", "Do the basins fill as they should?", populations)
    yield Section("maps", "Ramachandran maps", _MAP_WORDS, _each(run, "ramachandran", figures.ramachandran_maps))
    yield Section("energies", "Energies", "", picture("energies", figures.energy_histograms(run)))
    shapes = picture("pair_distances", particles.pair_distances(run))
    yield Section("shapes", "Shapes", "", shapes + _each(run, "reverse_path", particles.reverse_path))
    drawn = (
        f"{run.settings.report.pictured_conformers} conformers of each ensemble, evenly spaced, laid upon one another."
    )
    yield Section("conformers", "Conformers", drawn, _each(run, "conformers", conformers.stick_drawing))
    training = picture("pretraining", figures.pretraining_curve(run))
    training += picture("alignment", figures.alignment_curves(run))
    training += picture("effective_sample_sizes", figures.effective_sample_sizes(run))
    yield Section("training", "Training and alignment", "", training)


def _each(run: Run, name: str, figure: Callable[[Run, str], Figure | None]) -> list[Picture]:
    """One figure for each pictured system."""
    drawn = []
    for system in run.pictured_systems:
        settings = run.settings.systems[system]
        drawn += picture(name, figure(run, system), system=system, molecule=describe(settings))
    return drawn


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
    seeds = tables.over_seeds(run)
    contents = [] if seeds is None else [("seeds", "Over seeds")]
    contents += [("short", "In short"), ("run", "What was run"), ("table", "Table"), ("systems", "By system")]
    contents += [(s.id, s.title) for s in sections]
    contents += [("times", "Times"), ("made", "What made it"), ("rerun", "Run it again"), ("cite", "Cite")]
    return environment.get_template("report.html.j2").render(
        title=run.settings.report.title,
        run_name=run.settings.run.name,
        seeds=run.seeds,
        over_seeds=seeds,
        n_systems=len(run.systems),
        version=version,
        css=own_file("report.css"),
        script=own_file("viewer.js"),
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
        view=Markup(json.dumps(view, separators=(",", ":")).replace("<", "\\u003c")) if view else "",
        key=[(name, ELEMENT_COLOURS[e]) for e, name in (("C", "carbon"), ("N", "nitrogen"), ("O", "oxygen"))],
        times=_times(run),
        records=_records([*records(run), {"artifact": "this page", **record}]),
        versions=", ".join(f"{name} {v}" for name, v in record["versions"].items() if v),
        commands=_commands(run),
        citations=findings.citations(run),
    )


def own_file(name: str) -> Markup:
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def _times(run: Run) -> list[dict[str, str]]:
    return [
        {
            "stage": str(row.stage),
            "jobs": str(row.jobs),
            "time": tables.duration(float(row.seconds)),  # type: ignore[arg-type]
            "memory": f"{row.peak_mib:,.0f} MiB" if row.peak_mib == row.peak_mib else "–",
        }
        for row in list[Any](stage_times(run).itertuples())
    ]


def _records(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Provenance records in words; artifacts that were made alike share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for record in found:
        seed = "–" if record.get("seed") is None else str(record["seed"])
        settings = json.dumps(record.get("settings", {}), indent=1, sort_keys=True, ensure_ascii=False)
        key = (record.get("stage", ""), seed, record.get("code_stamp", ""), settings)
        rows.setdefault(key, []).append(record["artifact"])
    names = ("stage", "seed", "code_stamp", "settings")
    return [{"artifact": "; ".join(artifacts), **dict(zip(names, key, strict=True))} for key, artifacts in rows.items()]


def _commands(run: Run) -> str:
    """What to type, with its meaning beside it."""
    name = run.settings.run.name
    own = "" if name == RunSettings().name else f" --configfile configs/{name}.yaml"
    commands = {
        f"snakemake --cores all{own}": "the run" + (", from the file that it was configured with" if own else ""),
        f"snakemake --cores all{own} --dry-run": "what would be run, and why",
        f"snakemake --cores all{own} --forcerun pretrain": "everything from pretraining on, anew",
    }
    width = max(map(len, commands)) + 3
    return "\n".join(f"{command:{width}}# {meaning}" for command, meaning in commands.items())
