"""What the report says of small molecules: coverage, matching and strain, in sentences."""

import numpy as np

from ancdiff.corridor import PRETRAINED, aligned_model
from ancdiff.origins import is_small_molecule
from ancdiff.report.collect import Run, words
from ancdiff.units import ANGSTROM_PER_NM

_COVERAGE = ("cov_r", "mat_r_nm", "cov_p", "mat_p_nm")


def names(run: Run) -> list[str]:
    """The pictured small molecules."""
    return [name for name in run.pictured_systems if is_small_molecule(run.settings.systems[name])]


def tiles(run: Run) -> list[dict[str, str]]:
    """The few numbers at the top: what alignment did to coverage and to strain."""
    if not names(run):
        return []
    out = []
    for objective in run.objectives or [PRETRAINED]:
        last = aligned_model(objective, run.rounds)
        said = words(last) if last == PRETRAINED else f"pretrained → {words(last)}"
        models = [PRETRAINED] if last == PRETRAINED else [PRETRAINED, last]
        for column, form, scale, label in (
            ("cov_r", "{:.0f} %", 100.0, "COV-R"),
            ("median_strain_kt", "{:.0f} kT", 1.0, "median strain"),
        ):
            values = [run.average(model, column) for model in models]
            if np.isfinite(values).all():
                text = " → ".join(form.format(scale * value) for value in values)
                out.append({"value": text, "words": f"{label}, {said}"})
    return out


def findings(run: Run) -> list[str]:
    """A sentence for each shown model, on trained and on held-out molecules."""
    out = []
    split = {name: run.settings.systems[name].split for name in names(run)}
    for part, label in (("train", "Molecules that were trained on"), ("test", "Molecules never seen in training")):
        systems = [name for name, its in split.items() if its == part]
        for model in (m for m in run.shown if systems and m not in ("training", "reference")):
            values = {metric: _mean(run, metric, model, systems) for metric in _COVERAGE}
            if not np.isfinite(list(values.values())).all():
                continue
            strain = _median_of(run, "median_strain_kt", model, systems)
            strained = f"; median strain {strain:.0f} kT" if np.isfinite(strain) else ""
            out.append(
                f"{label}, {words(model)}: COV-R {100 * values['cov_r']:.0f} %, MAT-R "
                f"{ANGSTROM_PER_NM * values['mat_r_nm']:.2f} Å, COV-P {100 * values['cov_p']:.0f} %, MAT-P "
                f"{ANGSTROM_PER_NM * values['mat_p_nm']:.2f} Å (means over {len(systems)}){strained}."
            )
    return out


def story(run: Run) -> str:
    """What was done with small molecules."""
    forcefield = run.evaluated_with["forcefield"]
    rounds = f"{run.rounds} round{'s' if run.rounds != 1 else ''}"
    objectives = " and ".join(words(aligned_model(o, 1)).split(",")[0] for o in run.objectives)
    aligned = f", and the model was aligned with these energies in {rounds} (objectives: {objectives})"
    return (
        "One equivariant diffusion model was trained on conformers of small molecules, all atoms, by their graphs, and "
        f"sampled; samples were scored with {forcefield['small_molecule']}{aligned if run.rounds else ''}. The "
        "reference is two independent searches for conformers (embedded, relaxed with the same energy, near copies "
        "dropped), which no model has seen; the training set is a third one. Where tables say MD, they mean these sets."
    )


def _mean(run: Run, metric: str, model: str, systems: list[str]) -> float:
    rows = run.select(metric, ensemble=model, against="reference")
    values = rows[rows["system"].isin(systems)]["value"]
    return float(values.mean()) if len(values) else np.nan


def _median_of(run: Run, metric: str, model: str, systems: list[str]) -> float:
    rows = run.select(metric, ensemble=model)
    values = rows[rows["system"].isin(systems)]["value"]
    return float(values.median()) if len(values) else np.nan
