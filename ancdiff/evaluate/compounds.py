"""evaluate, for a set of compounds: every generated set, and the data's own test part beside them.

One row for each set and metric, with its interval. The test part is measured like a generated set: what it scores is
what a perfect model would; its bond lengths and angles are compared with those of the training part, as all are.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ancdiff.artifacts import write_json, write_table
from ancdiff.bonds import Values, bond_angles, bond_lengths
from ancdiff.compound_denoising import load_data
from ancdiff.compound_files import read_compounds
from ancdiff.compounds import Compounds
from ancdiff.config import Config, EvaluateSettings, StageConfig
from ancdiff.corridor import PARTS, PRETRAINED, TEST_PART, Layout, generated_sets, pretrained_models
from ancdiff.denoiser.store import choose_device, load_compound_denoiser
from ancdiff.diffusion.likelihood_bound import smoothed_nll_bound
from ancdiff.evaluate import molecules
from ancdiff.evaluate.seeds import mean_over_seeds
from ancdiff.provenance import made_by

_DISTANCE_REPEATS = 40  # resamples of a distance of distributions, which costs a sort of all values each time
_ANGSTROM_PER_NM_LN = math.log(10.0)

METRICS: dict[str, tuple[str, str]] = {
    "atom_stability": ("", "share of atoms whose bonds, told by distances, add up to their valence"),
    "molecule_stability": ("", "share of compounds all of whose atoms are stable"),
    "validity": ("", "share of compounds that RDKit can make sense of"),
    "one_piece": (
        "",
        "share of compounds whose bonds join all of their atoms; validity looks at the largest fragment only",
    ),
    "uniqueness": ("", "share of the valid ones that are the first of their kind (SMILES)"),
    "novelty": ("", "share of the valid and unique ones that are not in the training part"),
    "bond_distance_nm": ("nm", "Wasserstein distance of bond lengths from the training part's, mean over kinds"),
    "angle_distance_deg": ("°", "the same of bond angles"),
    "strain_kj_mol": ("kJ/mol", "median MMFF94 energy that relaxation takes out of a valid compound"),
    "strain_failed": ("", "share of compounds without a strain: not valid, no parameters, not relaxed"),
    "nll_bound_nats": ("nats", "upper bound on −ln p of a compound of the test part (positions in Å), mean"),
}
"""Unit and plain words of each metric."""


@dataclass(frozen=True)
class Measured:
    """A metric's value with its 95 % interval."""

    metric: str
    value: float
    low: float = math.nan
    high: float = math.nan


def run(settings: StageConfig, *, results: Path) -> None:
    """Measure every generated set and the test part. Randomness from ``evaluate.seed`` alone.

    Raises:
        InputError: a set or a model is missing or damaged.
    """
    layout = Layout(results)
    ((system, _),) = settings.systems.items()
    paths = {part: layout.part(part, system) for part in PARTS}
    training = read_compounds(paths["train"])
    known = _Known(
        frozenset(s for s in molecules.canonical_smiles(training) if s is not None),
        bond_lengths(training),
        bond_angles(training),
    )
    models = pretrained_models(Config(run=settings.run))
    sets = {(TEST_PART, 0): paths["test"]} | {
        (model, n): layout.generated(model, system, n) for model in models for n in generated_sets(settings.generate)
    }
    rows = []
    for (ensemble, evaluations), path in tqdm(sets.items(), desc="evaluate", unit="set"):
        compounds = read_compounds(path)
        rng = np.random.default_rng([settings.evaluate.seed, evaluations])
        measured = measure(compounds, known, settings.evaluate, rng)
        if evaluations == settings.generate.evaluations:  # a likelihood is the model's, however it is sampled
            test = _chosen(read_compounds(paths["test"]), settings.evaluate.likelihood_compounds, rng)
            measured.append(likelihood(layout.model(ensemble), test, settings))
        rows += [_row(system, ensemble, evaluations, len(compounds), m) for m in measured]
    table = pd.DataFrame(rows)
    folder = results / "evaluate"
    parents = [*paths.values(), *map(layout.model, models), *(path for path in sets.values() if path != paths["test"])]
    record = made_by("evaluate", settings=settings.as_dict(), seed=settings.evaluate.seed, parents=parents)
    write_json(folder / "metrics.json", record | {"metrics": METRICS})
    write_table(folder / "seeds.parquet", over_seeds(table), tsv=True)
    write_table(folder / "summary.parquet", wide(table), tsv=True)
    write_table(folder / "metrics.parquet", table, tsv=True)


@dataclass(frozen=True, eq=False)
class _Known:
    """What the training part holds."""

    smiles: frozenset[str]
    bonds: Values
    angles: Values


def measure(
    compounds: Compounds, known: _Known, settings: EvaluateSettings, rng: np.random.Generator
) -> list[Measured]:
    """All metrics of a set of compounds but the likelihood. Draws from ``rng``."""
    stable, sizes = molecules.stable_atom_counts(compounds), compounds.sizes
    smiles = molecules.canonical_smiles(compounds)
    valid = np.array([s is not None for s in smiles])
    first = np.array(molecules.first_of_its_kind(smiles))
    novel = np.array([s not in known.smiles for s in smiles])
    strains = [molecules.mmff_strain_kj_mol(*atoms) for atoms in compounds]
    strain = np.array([value for value, status in strains if status == "ok"])
    out = [
        _ratio("atom_stability", stable, sizes, settings, rng),
        _share("molecule_stability", stable == sizes),
        _share("validity", valid),
        _share("one_piece", molecules.in_one_piece(compounds)),
        _share("uniqueness", first[valid]),
        _share("novelty", novel[first]),
    ]
    for metric, mine, data in (
        ("bond_distance_nm", bond_lengths(compounds), known.bonds),
        ("angle_distance_deg", bond_angles(compounds), known.angles),
    ):
        drawn = rng.multinomial(len(compounds), np.full(len(compounds), 1 / len(compounds)), size=_DISTANCE_REPEATS)
        repeats = [molecules.mean_distance(mine, data, weights=w.astype(np.float64)) for w in drawn]
        # Resampling adds noise of its own to a distance: the interval lies about the value, not about the repeats.
        spread = float(np.std(repeats)) * 1.96
        value = molecules.mean_distance(mine, data)
        out.append(Measured(metric, value, max(0.0, value - spread), value + spread))
    out.append(_median("strain_kj_mol", strain, settings, rng))
    out.append(_share("strain_failed", np.array([status != "ok" for _, status in strains])))
    return out


def likelihood(model: Path, test: Compounds, settings: StageConfig) -> Measured:
    """Mean bound on −ln p of compounds in nats, positions in Å, types exact, number of atoms included.

    Positions are those under noise σ_min, 0.006 Å in QM9. Types are certain at σ_min, so that what their noise adds is
    its known entropy, which is taken off. EDM's figure has the same parts.
    """
    device = choose_device()
    denoiser, described = load_compound_denoiser(model)
    denoiser.to(device)
    spread, diffusion = denoiser.sigma_data_nm, settings.diffusion
    sigma_min = diffusion.sigma_min * spread
    generator = torch.Generator(device).manual_seed(settings.evaluate.seed)
    total, found = sum(described["sizes"].values()), []
    with torch.inference_mode():
        for block in load_data(test, device).blocks:
            bound = smoothed_nll_bound(
                denoiser,
                denoiser.state(block.positions_nm, block.types),
                sigma_data_nm=spread,
                sigma_min_nm=sigma_min,
                sigma_max_nm=diffusion.sigma_max * spread,
                levels=settings.evaluate.likelihood_levels,
                generator=generator,
            )
            atoms = block.types.shape[1]
            channels = len(denoiser.frequencies) * atoms
            noise = 0.5 * channels * math.log(2 * math.pi * math.e * sigma_min**2)
            size = -math.log(max(described["sizes"].get(atoms, 0), 0.5) / total)
            found.append(bound.cpu().numpy() - noise + 3 * (atoms - 1) * _ANGSTROM_PER_NM_LN + size)
    values = np.concatenate(found)
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    mean = float(values.mean())
    return Measured("nll_bound_nats", mean, mean - half, mean + half)


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each set: its metrics with ``_low`` and ``_high``."""
    rows = []
    for (ensemble, evaluations), part in table.groupby(["ensemble", "evaluations"], sort=False):
        row: dict[str, Any] = {"ensemble": ensemble, "evaluations": evaluations, "compounds": part["compounds"].iloc[0]}
        for entry in list[Any](part.itertuples()):
            row |= {entry.metric: entry.value, f"{entry.metric}_low": entry.low, f"{entry.metric}_high": entry.high}
        rows.append(row)
    return pd.DataFrame(rows)


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, spread (n − 1) and 95 % interval over seeds of each metric of the models, by network evaluations.

    With one seed there is no spread and no interval.
    """
    models = table[table["ensemble"] != TEST_PART]
    rows = []
    for (evaluations, metric), part in models.groupby(["evaluations", "metric"], sort=False):
        values = part["value"].dropna().to_numpy(dtype=np.float64)
        told = {"model": PRETRAINED, "evaluations": evaluations, "metric": metric}
        rows.append(told | mean_over_seeds(values) | {"unit": METRICS[str(metric)][0]})
    return pd.DataFrame(rows)


def _row(system: str, ensemble: str, evaluations: int, compounds: int, m: Measured) -> dict[str, Any]:
    place = {"system": system, "ensemble": ensemble, "evaluations": evaluations, "compounds": compounds}
    return place | {"metric": m.metric, "value": m.value, "low": m.low, "high": m.high}


def _chosen(compounds: Compounds, wanted: int, rng: np.random.Generator) -> Compounds:
    return compounds.take(np.sort(rng.permutation(len(compounds))[:wanted]))


def _share(metric: str, flags: np.ndarray) -> Measured:
    """A share with Wilson's interval (J. Am. Stat. Assoc. 22, 209 (1927)); NaN of nothing."""
    n = len(flags)
    if n == 0:
        return Measured(metric, math.nan)
    p, z = float(np.mean(flags)), 1.96
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Measured(metric, p, max(0.0, (middle - half) / (1 + z**2 / n)), min(1.0, (middle + half) / (1 + z**2 / n)))


def _ratio(
    metric: str, part: np.ndarray, whole: np.ndarray, settings: EvaluateSettings, rng: np.random.Generator
) -> Measured:
    """A share of atoms; compounds are resampled, since the atoms of one are not independent."""
    drawn = rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=settings.bootstrap_repeats)
    low, high = np.quantile((drawn @ part) / (drawn @ whole), [0.025, 0.975])
    return Measured(metric, float(part.sum() / whole.sum()), float(low), float(high))


def _median(metric: str, values: np.ndarray, settings: EvaluateSettings, rng: np.random.Generator) -> Measured:
    if len(values) == 0:
        return Measured(metric, math.nan)
    repeats = [float(np.median(rng.choice(values, len(values)))) for _ in range(settings.bootstrap_repeats)]
    low, high = np.quantile(repeats, [0.025, 0.975])
    return Measured(metric, float(np.median(values)), float(low), float(high))
