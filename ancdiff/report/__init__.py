"""report: one self-contained HTML page on a run, and its figures as PNG beside it.

Reads what `evaluate` wrote, the ensembles, energies, training curves, weights and benchmark files. What a run lacks
is left out of the page; only `evaluate` has to have run.
"""

from pathlib import Path

from ancdiff.artifacts import write_text
from ancdiff.config import StageConfig
from ancdiff.provenance import made_by
from ancdiff.report import compounds
from ancdiff.report.collect import open_run
from ancdiff.report.page import draw, render, write_png


def run(settings: StageConfig, *, results: Path) -> None:
    """Write ``report.html`` and ``report/figures/*.png``. Reads and writes the disk; draws no randomness.

    Raises:
        InputError: the run has not been evaluated.
    """
    if any(system.compounds for system in settings.systems.values()):
        compounds.run(settings, results=results)
        return
    opened = open_run(settings, results)
    parents = [results / "evaluate" / name for name in ("metrics.parquet", "summary.parquet")]
    record = made_by("report", settings=settings.as_dict(), seed=None, parents=parents)
    sections = draw(opened)
    for picture in (p for section in sections for p in section.figures):
        write_png(results / "report" / "figures" / f"{picture.name}.png", picture.png)
    version = record["versions"]["ancdiff"] or ""
    write_text(results / "report.html", render(opened, sections, record=record, version=version))
