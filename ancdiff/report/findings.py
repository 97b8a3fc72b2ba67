"""What the run shows, in sentences made from its numbers; and what a reader should be careful about."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ancdiff.corridor import PRETRAINED, aligned_model, split_model
from ancdiff.report import molecules, particles
from ancdiff.report.collect import Run, line_words, pool_weights, records, words, words_with_seed

_FEW_EFFECTIVE = 10.0
_WORRYING_RISE_KT = 2.0
_MOST_OF_A_KIND = 5
_SMALL_MOLECULE_ENERGIES = {
    "mmff94": "Energy MMFF94: T. A. Halgren, J. Comput. Chem. 17, 490 (1996).",
    "gfn2-xtb": "Energy GFN2-xTB: C. Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019).",
}
_SOLVENT_WORDS = {"obc2": "OBC2 implicit solvent", "gbn2": "GBn2 implicit solvent", "vacuum": "vacuum"}


def tiles(run: Run) -> list[dict[str, str]]:
    """The few numbers at the top."""
    out = []
    before = run.average(PRETRAINED, "free_energy_error_kt")
    for objective in run.objectives:
        after = run.average(aligned_model(objective, run.rounds), "free_energy_error_kt")
        if np.isfinite(before) and np.isfinite(after):
            name = words(aligned_model(objective, run.rounds))
            said = f"free-energy error, pretrained → {name}{_mean_words(run)}"
            out.append({"value": f"{before:.2f} → {after:.2f} kT", "words": said})
    ratios = _ratios_to_floor(run)
    if ratios:
        mean = float(np.mean(list(ratios.values())))
        out.append({"value": f"{mean:.1f} × floor", "words": "divergence of the pretrained model from its training MD"})
    worst = _worst(run, "stereocentres_right", np.min)
    if worst is not None:
        out.append(
            {
                "value": f"{100 * worst[1]:.2f} %",
                "words": f"stereocentres right, at worst ({words_with_seed(worst[0])})",
            }
        )
    worst = _worst(run, "bond_rms_error_nm", np.max)
    if worst is not None:
        out.append(
            {
                "value": f"{1000 * worst[1]:.2f} pm",
                "words": f"bond-length error, at worst ({words_with_seed(worst[0])})",
            }
        )
    return out + molecules.tiles(run) + particles.tiles(run)


def findings(run: Run) -> list[str]:
    """Sentences on populations, fidelity and geometry."""
    out = []
    training = run.average("training", "free_energy_error_kt")
    before = run.average(PRETRAINED, "free_energy_error_kt")
    floor = run.average(PRETRAINED, "free_energy_error_kt_floor")
    if np.isfinite(before) and len(particles.names(run)) < len(run.pictured_systems):
        text = f"The training MD has its basin populations wrong by {training:.2f} kT on average, the pretrained "
        text += f"model, which learned them, by {before:.2f} kT{_mean_words(run)}"
        text += f"; the reference knows them to {floor:.2f} kT itself (floor)." if np.isfinite(floor) else "."
        out.append(text)
        out += [s for s in (_alignment(run, objective, before) for objective in run.objectives) if s]
    ratios = _ratios_to_floor(run)
    if ratios:
        worst = max(ratios, key=lambda system: ratios[system])
        mean = float(np.mean(list(ratios.values())))
        out.append(
            f"The pretrained model's Ramachandran maps differ from its own training MD {mean:.1f} times as much as one "
            "half of that MD from the other, at the same number of conformers "
            f"(at most {ratios[worst]:.1f} times: {worst})."
        )
    return out + molecules.findings(run) + particles.findings(run)


def _alignment(run: Run, objective: str, before: float) -> str:
    model = aligned_model(objective, run.rounds)
    after, low, high = (run.average(model, f"free_energy_error_kt{end}") for end in ("", "_low", "_high"))
    if not np.isfinite(after):
        return ""
    over = f" over {len(run.seeds)} seeds" if len(run.seeds) > 1 else ""
    between = f" (95 % interval{over} {low:.2f} to {high:.2f})" if np.isfinite(low) else ""
    share = f"{100 * after / before:.0f} % of the pretrained model's" if before > 0 else ""
    if objective == "none":
        return f"The control, trained for as many steps without energies, ends at {after:.2f} kT{between}, {share}."
    name = words(model).split(",")[0]
    rounds = f"{run.rounds} round{'s' if run.rounds > 1 else ''}"
    return (
        f"After {rounds} of alignment with {name} the error is {after:.2f} kT{between}, {share}.{_beside(run, model)}"
    )


def _beside(run: Run, model: str) -> str:
    """What else alignment changed: populations alone can come right while conformers go bad."""
    maps = [run.average(m, "ramachandran_jsd") for m in (PRETRAINED, model)]
    energies = [run.average(m, "median_energy_kt") for m in (PRETRAINED, model)]
    said = []
    if np.isfinite(maps).all():
        said.append(f"the maps' divergence from the reference from {maps[0]:.3f} to {maps[1]:.3f} nats")
    if np.isfinite(energies).all():
        said.append(f"the median energy from {energies[0]:.1f} to {energies[1]:.1f} kT above the reference's")
    return f" Meanwhile it took {' and '.join(said)}." if said else ""


def cautions(run: Run) -> list[str]:
    """What went wrong or is weak in this run; empty where nothing is."""
    lost = run.metrics[(run.metrics["metric"] == "conformers_finite") & (run.metrics["value"] < 1)]
    said = []
    for row in _rows(lost.sort_values("value", kind="stable")):
        whose = f"{_percent(1 - row.value)} of the conformers of {words_with_seed(row.ensemble)}, {row.system},"
        said.append(f"{whose} have coordinates that are not numbers; they are left out of every other metric.")
    out = _first(said)
    out += _refused(run)
    failed = run.metrics[(run.metrics["metric"] == "energy_failed") & (run.metrics["value"] > 0.01)]
    said = []
    for row in _rows(failed.sort_values("value", ascending=False, kind="stable")):
        whose = f"{_percent(row.value)} of the conformers of {words_with_seed(row.ensemble)}, {row.system},"
        said.append(f"{whose} got no energy (reasons: score/{row.ensemble}/{row.system}.parquet).")
    out += _first(said)
    with_reference = run.select("free_energy_error_kt", against="reference")
    if with_reference.empty and not particles.names(run) and not molecules.names(run):
        out.append(
            "There is no reference MD: models are compared with their training MD only, and whether alignment made the "
            "populations better cannot be told."
        )
    for objective, seed in product(run.objectives, run.named_seeds):
        model = aligned_model(objective, run.rounds, seed)
        before = aligned_model(objective, 0, seed)
        rise = run.average(model, "median_energy_kt") - run.average(before, "median_energy_kt")
        if rise > _WORRYING_RISE_KT:
            out.append(
                f"The model {words_with_seed(model)} has a median energy {rise:.1f} kT above the pretrained model's: "
                "its conformers are more strained, whatever its populations say. Look at the bond lengths and at the "
                "energy histograms."
            )
    pools = pool_weights(run)
    pools = pools[pools["objective"] != "none"]
    if len(pools) and (pools["ess"] < _FEW_EFFECTIVE).any():
        few = _rows(pools.sort_values("ess"))[0]
        anchor = f" (its anchor's on {few.anchor_ess:.0f})" if np.isfinite(few.anchor_ess) else ""
        out.append(
            f"The objective's weights of some pools rest on few conformers: {few.ess:.1f} effective of "
            f"{few.conformers:,} of {few.system} in {_rounds_words([few.model])}{anchor}. More samples, or a target "
            "effective sample size (align.temper), help."
        )
    said = [
        f"{system} was left out of the round that made {record['artifact']}: {why}."
        for record in records(run)
        for system, why in record.get("left_out", {}).items()
    ]
    out += _first(said)
    hot = pools[pools["temperature_kelvin"] > _temperature(run) + 0.5].sort_values(
        "temperature_kelvin", ascending=False, kind="stable"
    )
    said = [
        f"The weights of {system} in {_rounds_words(models)} were tempered to {kelvin} K."
        for (system, kelvin), models in _alike(hot, "temperature_kelvin").items()
    ]
    out += _first(said)
    said = [
        f"The training MD of {system} was weighed as MD at {kelvin} K in {_rounds_words(models)}: "
        "right if its temperature is all that is wrong with it (align.anchor_md)."
        for (system, kelvin), models in _alike(pools[pools["md_kelvin"].notna()], "md_kelvin").items()
    ]
    return out + _first(said)


def _alike(pools: pd.DataFrame, kelvin: str) -> dict[tuple[str, str], list[str]]:
    """Models whose pools of a system have the same temperature, to a kelvin, by both; in the table's order."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in _rows(pools):
        found.setdefault((row.system, f"{getattr(row, kelvin):.0f}"), []).append(row.model)
    return found


_REFUSED_WORDS = {
    "heavy_tail": "a few samples carry the weight (Pareto k {k})",
    "few_conformers": "too few samples have an energy",
}


def _refused(run: Run) -> list[str]:
    """Reweighted ensembles of which nothing is claimed, and why."""
    rows = run.select("pareto_k")
    refused: dict[tuple[str, str, str], list[Any]] = {}
    for row in _rows(rows[rows["status"] != "ok"]) if "status" in rows else []:
        refused.setdefault((words(row.ensemble), row.system, row.status), []).append(row)
    out = []
    for (name, system, status), alike in refused.items():
        alike.sort(key=lambda row: split_model(row.ensemble).seed or 0)  # as the seeds are named
        why = _REFUSED_WORDS[status].format(k=", ".join(f"{row.value:.2f}" for row in alike))
        seeds = _seeds_words([split_model(row.ensemble).seed for row in alike])
        whose = ", ".join(filter(None, (name, seeds, system)))
        out.append(f"Nothing is claimed of {whose}: {why}. The numbers are left empty.")
    return out


def story(run: Run) -> str:
    """What was done, in two sentences."""
    forcefield = run.evaluated_with["forcefield"]
    if len(particles.names(run)) == len(run.pictured_systems):
        return particles.story(run)
    if len(molecules.names(run)) == len(run.pictured_systems):
        return molecules.story(run)
    objectives = " and ".join(words(aligned_model(o, 1)).split(",")[0] for o in run.objectives)
    rounds = f"{run.rounds} round{'s' if run.rounds > 1 else ''}"
    return (
        f"One equivariant diffusion model{f' for each of {len(run.seeds)} seeds' if len(run.seeds) > 1 else ''} was "
        "pretrained on the training MD of all training systems and sampled; its "
        f"samples were scored with {forcefield['protein']} in {_SOLVENT_WORDS[forcefield['solvent']]} at "
        f"{forcefield['temperature_kelvin']:g} K, and the model was aligned with these energies in {rounds} "
        f"(objectives: {objectives}). Every model is compared with reference MD, which no model has seen."
    )


def citations(run: Run) -> list[str]:
    """What to cite, with what the run used of it."""
    forcefield = run.evaluated_with["forcefield"]
    out = [
        "ancdiff (this software; see CITATION.cff in its repository for the current entry).",
        "Energy-based alignment: J. Lu et al., Aligning Protein Conformation Ensemble Generation with Physical "
        "Feedback, ICML 2025, arXiv:2505.24203.",
        "Diffusion design (noise, preconditioning, sampler): T. Karras et al., Elucidating the Design Space of "
        "Diffusion-Based Generative Models, NeurIPS 2022, arXiv:2206.00364.",
        "Energies and dynamics: P. Eastman et al., OpenMM 8, J. Phys. Chem. B 128, 109 (2024).",
    ]
    if molecules.names(run):
        out += [
            "Coverage and matching: M. Xu et al., GeoDiff, ICLR 2022, arXiv:2203.02923.",
            "Embedding: S. Wang et al., J. Chem. Inf. Model. 60, 2044 (2020), in RDKit (rdkit.org).",
            _SMALL_MOLECULE_ENERGIES[forcefield["small_molecule"]],
        ]
        if len(molecules.names(run)) == len(run.pictured_systems):
            return out
    used = {
        "ff14SB": "Force field ff14SB: J. A. Maier et al., J. Chem. Theory Comput. 11, 3696 (2015).",
        "ff19SB": "Force field ff19SB: C. Tian et al., J. Chem. Theory Comput. 16, 528 (2020).",
        "amber99sb-ildn": "Force field ff99SB-ILDN: K. Lindorff-Larsen et al., Proteins 78, 1950 (2010).",
        "charmm36": "Force field CHARMM36: R. B. Best et al., J. Chem. Theory Comput. 8, 3257 (2012).",
        "obc2": "Implicit solvent OBC2: A. Onufriev, D. Bashford, D. A. Case, Proteins 55, 383 (2004).",
        "gbn2": "Implicit solvent GBn2: H. Nguyen, D. R. Roe, C. Simmerling, J. Chem. Theory Comput. 9, 2020 (2013).",
    }
    return out + [used[forcefield[key]] for key in ("protein", "solvent") if forcefield[key] in used]


def _temperature(run: Run) -> float:
    return run.evaluated_with["forcefield"]["temperature_kelvin"]


def _ratios_to_floor(run: Run) -> dict[str, float]:
    """Divergence of the pretrained model from its training MD over the floor, of each training system."""
    rows = run.select("ramachandran_jsd", against="training")
    rows = rows[rows["ensemble"].isin([aligned_model(PRETRAINED, 0, seed) for seed in run.named_seeds])]
    trained = [s for s, settings in run.settings.systems.items() if settings.split == "train"]
    rows = rows[rows["system"].isin(trained) & (rows["floor"] > 0)]
    return {str(system): float((of["value"] / of["floor"]).mean()) for system, of in rows.groupby("system", sort=False)}


def _worst(run: Run, column: str, pick: Any) -> tuple[str, float] | None:
    """The model with the worst average of a headline metric."""
    values = pd.Series({model: run.average(model, column) for model in run.models}, dtype=np.float64).dropna()
    if values.empty:
        return None
    worst = float(pick(values))
    return str(values.index[int(np.argmax(values.to_numpy() == worst))]), worst


def _first(said: list[str]) -> list[str]:
    """The first sentences of one kind, and how many more there are."""
    left = len(said) - _MOST_OF_A_KIND
    return said if left <= 1 else [*said[:_MOST_OF_A_KIND], f"… and {left} more like the last."]


def _mean_words(run: Run) -> str:
    return f" (mean of {len(run.seeds)} seeds)" if len(run.seeds) > 1 else ""


def _rounds_words(models: Sequence[str]) -> str:
    """“round 2 of EBA”, “rounds 1, 2 of EBA, seeds 7, 8”; with “and” between lines, and seeds that differ."""
    rounds: dict[tuple[str, int | None], list[int]] = {}
    for model in models:
        name = split_model(model)
        rounds.setdefault((name.line, name.seed), []).append(name.round_number)
    seeds: dict[tuple[str, tuple[int, ...]], list[int | None]] = {}
    for (line, seed), numbers in rounds.items():
        seeds.setdefault((line, tuple(sorted(numbers))), []).append(seed)
    return " and ".join(
        ", ".join(filter(None, (f"{_plural('round', numbers)} of {line_words(line)}", _seeds_words(of))))
        for (line, numbers), of in seeds.items()
    )


def _seeds_words(seeds: Sequence[int | None]) -> str:
    """“seeds 7, 8”, and nothing in a run with one seed, whose models carry none."""
    known = sorted(seed for seed in seeds if seed is not None)
    return _plural("seed", known) if known else ""


def _plural(word: str, numbers: Sequence[int]) -> str:
    return f"{word}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _rows(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples())


def _percent(share: Any) -> str:
    return f"{100 * float(share):.3g} %"
