"""Ensembles with known answers: ACE-ALA-…-NME from internal coordinates, and a whole results folder made of them."""

from pathlib import Path

import numpy as np
import pandas as pd

from ancdiff.artifacts import write_ensemble, write_json, write_table
from ancdiff.basins import BASIN_CENTRES_DEG, BASINS
from ancdiff.config import Config, StageConfig, parse_config
from ancdiff.corridor import Layout, models, seed_of, split_model
from ancdiff.molecules import ENERGY_COLUMNS, Ensemble, Molecule, natural_stereocentres
from ancdiff.provenance import made_by
from ancdiff.units import thermal_energy_kj_mol

# Lengths in nm and angles in degrees of a protein backbone, rounded.
_CA_C, _C_N, _N_CA, _C_O, _CA_CB = 0.1525, 0.1335, 0.1450, 0.1230, 0.1530
_REPLICAS = {"training": 10, "reference": 2}


def alanines(n: int) -> Molecule:
    """ACE-(ALA)n-NME, heavy atoms, without coordinates."""
    names, residue_of_atom, bonds = ["CH3", "C", "O"], [0, 0, 0], [(0, 1), (1, 2)]
    carbonyl = 1
    for r in range(1, n + 1):
        nitrogen = len(names)
        names += ["N", "CA", "CB", "C", "O"]
        residue_of_atom += [r] * 5
        bonds += [(carbonyl, nitrogen)]
        bonds += [(nitrogen + a, nitrogen + b) for a, b in ((0, 1), (1, 2), (1, 3), (3, 4))]
        carbonyl = nitrogen + 3
    bonds += [(carbonyl, len(names)), (len(names), len(names) + 1)]
    names += ["N", "CH3"]
    residue_of_atom += [n + 1] * 2
    residues = ("ACE", *["ALA"] * n, "NME")
    owners = np.array(residue_of_atom)
    return Molecule(
        name="peptide",
        atom_names=tuple(names),
        elements=tuple(name[0] for name in names),
        residue_names=residues,
        residue_of_atom=owners,
        bonds=np.array(sorted(bonds)),
        stereocentres=natural_stereocentres(tuple(names), residues, owners),
    )


def build(phi_psi_deg: np.ndarray, *, jitter_nm: float = 0.0, rng: np.random.Generator | None = None) -> Ensemble:
    """Conformers [conformers, residues, 2] of (φ, ψ) in degrees, in random orientation, with Gaussian jitter."""
    phi_psi = np.radians(phi_psi_deg)
    n, residues, _ = phi_psi.shape
    half_turn = np.full(n, np.pi)
    methyl, carbonyl = np.zeros((n, 3)), np.tile([_CA_C, 0.0, 0.0], (n, 1))
    turn = np.radians(180 - 116.5)
    nitrogen = carbonyl + _C_N * np.array([np.cos(turn), np.sin(turn), 0.0])
    oxygen = carbonyl + _C_O * np.array([np.cos(np.radians(60)), -np.sin(np.radians(60)), 0.0])
    atoms, before = [methyl, carbonyl, oxygen], methyl
    for r in range(residues):
        phi, psi = phi_psi[:, r, 0], phi_psi[:, r, 1]
        alpha = _place(before, carbonyl, nitrogen, _N_CA, 121.7, half_turn)
        beta = _place(carbonyl, nitrogen, alpha, _CA_CB, 110.5, phi - np.radians(122))
        next_carbonyl = _place(carbonyl, nitrogen, alpha, _CA_C, 111.0, phi)
        oxygen = _place(nitrogen, alpha, next_carbonyl, _C_O, 120.5, psi + np.pi)
        next_nitrogen = _place(nitrogen, alpha, next_carbonyl, _C_N, 116.5, psi)
        atoms += [nitrogen, alpha, beta, next_carbonyl, oxygen]
        before, carbonyl, nitrogen = alpha, next_carbonyl, next_nitrogen
    atoms += [nitrogen, _place(before, carbonyl, nitrogen, _N_CA, 121.7, half_turn)]
    positions = np.stack(atoms, axis=1)
    if rng is not None:
        positions = positions + jitter_nm * rng.normal(size=positions.shape)
        positions = positions @ rotations(n, rng) + rng.normal(size=(n, 1, 3))
    return Ensemble(alanines(residues), positions.astype(np.float32))


def _place(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, length_nm: float, angle_deg: float, torsion: np.ndarray
) -> np.ndarray:
    """The atom d with |cd|, ∠bcd and the torsion abcd."""
    bc = (c - b) / np.linalg.norm(c - b, axis=1, keepdims=True)
    normal = np.cross(b - a, bc)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    across = np.cross(normal, bc)
    angle = np.radians(angle_deg)
    along = -np.cos(angle) * bc
    around = np.cos(torsion)[:, None] * across + np.sin(torsion)[:, None] * normal
    return c + length_nm * (along + np.sin(angle) * around)


def rotations(n: int, rng: np.random.Generator) -> np.ndarray:
    """Random rotation matrices."""
    q, _ = np.linalg.qr(rng.normal(size=(n, 3, 3)))
    q[:, :, 0] *= np.linalg.det(q)[:, None]
    return q


def mixture(
    populations: tuple[float, float, float],
    n: int,
    rng: np.random.Generator,
    *,
    residues: int = 1,
    width_deg: float = 12,
) -> np.ndarray:
    """(φ, ψ) in degrees [n, residues, 2], Gaussian about the basins' centres, with these populations."""
    basins = rng.choice(len(BASINS), size=(n, residues), p=populations)
    centres = np.array([BASIN_CENTRES_DEG[name] for name in BASINS])
    return centres[basins] + width_deg * rng.normal(size=(n, residues, 2))


def energy_table(energies_kj_mol: np.ndarray, conformers: np.ndarray, *, failed: int = 0) -> pd.DataFrame:
    """An energy table; the last ``failed`` conformers have none."""
    n = len(energies_kj_mol)
    table = pd.DataFrame({name: np.zeros(n) for name in ENERGY_COLUMNS})
    table["conformer"] = conformers
    table["energy_kj_mol"] = energies_kj_mol
    table["status"] = "ok"
    if failed:
        table.loc[n - failed :, "status"] = "nan"
        table.loc[n - failed :, "energy_kj_mol"] = np.nan
    return table.astype(ENERGY_COLUMNS)


REFERENCE = (0.4, 0.55, 0.05)
TRAINING = (0.75, 0.15, 0.10)


def config(**changes: dict) -> Config:
    """A run of two peptides, one of them held out, with two objectives and two rounds."""
    raw: dict = {
        "run": {"name": "fake"},
        "systems": {
            "ala": {"sequence": "ACE-ALA-NME"},
            "tri": {"sequence": "ACE-ALA-ALA-NME", "split": "test"},
        },
        "align": {"objectives": ["eba", "none"], "rounds": 2},
        "evaluate": {"bootstrap_repeats": 40, "floor_draws": 4},
    }
    return parse_config(raw | changes)


def stage_config(config: Config, *names: str) -> StageConfig:
    """Some sections of a configuration, as a stage gets them."""
    return StageConfig(config.model_dump(mode="json", include=set(names)))


def populations_of(ensemble: str) -> tuple[float, float, float]:
    """Populations of a fake ensemble: alignment goes from the training MD to the reference, the control stays."""
    if ensemble == "reference":
        return REFERENCE
    if ensemble == "training" or split_model(ensemble).line in ("pretrain", "none"):
        return TRAINING
    share = 0.5 * split_model(ensemble).round_number
    mixed = (1 - share) * np.array(TRAINING) + share * np.array(REFERENCE)
    return tuple(mixed / mixed.sum())


def write_fake_run(
    root: Path, config: Config, *, frames: int = 600, conformers: int = 200, seed: int = 0, failed: int = 3
) -> None:
    """A results folder as it stands before `evaluate`, with everything that the report can read."""
    rng = np.random.default_rng(seed)
    layout = Layout(root)
    kt = thermal_energy_kj_mol(config.forcefield.temperature_kelvin)
    splits = []
    for s, system in enumerate(config.systems):
        for name in ("training", "reference", *models(config)):
            md = name in _REPLICAS
            n = frames if md else conformers
            phi_psi = mixture(populations_of(name), n, rng, residues=s + 1)
            ensemble = build(phi_psi, jitter_nm=0.002 if md else 0.0025, rng=rng)
            write_ensemble(layout.ensemble(name, system), ensemble, {"stage": "dataset" if md else "sample"})
            energies = kt * (-20 - 10 * s + 0.5 * rng.chisquare(8, size=n) + (0 if md else 1))
            write_table(layout.energies(name, system), energy_table(energies, np.arange(n), failed=0 if md else failed))
            if md:
                splits.append(_split(system, name, n))
    write_table(root / "dataset" / "split.parquet", pd.concat(splits, ignore_index=True), tsv=True)
    _write_records(root, config, rng)


def _split(system: str, md: str, frames: int) -> pd.DataFrame:
    replica = np.arange(frames) * _REPLICAS[md] // frames
    return pd.DataFrame(
        {
            "system": system,
            "md": md,
            "frame": np.arange(frames),
            "replica": replica,
            "half": replica % 2,
            "split": "reference" if md == "reference" else "train",
        }
    )


def _write_records(root: Path, config: Config, rng: np.random.Generator) -> None:
    steps = np.arange(0, 400, 10)
    pretrain = pd.DataFrame(
        {
            "step": steps,
            "loss": 0.3 + np.exp(-steps / 80) + 0.02 * rng.normal(size=len(steps)),
            "validation_loss": np.where(steps % 50 == 0, 0.32 + np.exp(-steps / 80), np.nan),
            "learning_rate": 1e-3,
            "gradient_norm": 0.5,
            "seconds": steps * 0.01,
        }
    )
    layout = Layout(root)
    for model in models(config):
        folder, seed = layout.model(model).parent, seed_of(model, config)
        if split_model(model).round_number == 0:
            write_table(folder / "metrics.parquet", pretrain.assign(loss=pretrain["loss"] + 0.001 * (seed % 10)))
            record = made_by("pretrain", settings=config.model_dump(mode="json"), seed=seed)
            write_json(folder / "model.json", {"made_by": record})
            continue
        align = pd.DataFrame(
            {
                "step": steps,
                "loss": 1.6 - 0.002 * steps + 0.05 * rng.normal(size=len(steps)),
                "ess": 3 + rng.normal(size=len(steps)) * 0.3,
                "model_energy_spread": 4 + steps * 0.005,
                "model_energy_error": 2 + steps * 0.001,
                "gradient_norm": 0.5,
                "seconds": steps * 0.02,
            }
        )
        write_table(folder / "metrics.parquet", align)
        weights = _weights(config, rng)
        if split_model(model).line != "none":  # a control has no anchor
            weights = weights.assign(anchor_log_weight=-np.log(100), anchor_md_kelvin=np.nan)
        write_table(folder / "weights.parquet", weights)
        record = made_by("align", settings=config.model_dump(mode="json"), seed=seed)
        write_json(folder / "model.json", {"made_by": record})
    for name, seconds in (("pretrain", 61.5), ("align/eba_round1", 30.0), ("align/eba_round2", 31.0), ("dataset", 2.0)):
        path = root / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:10\t512.5\t{seconds}\n")
    path = root / "benchmarks" / "score" / "training" / "ala.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("s\th:m:s\tmax_rss\tcpu_time\n0.4\t0:00:00\tNA\tNA\n")


def _weights(config: Config, rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for system in config.systems:
        log_weight = np.log(rng.dirichlet(np.full(100, 0.3)))
        ess = 1 / np.sum(np.exp(2 * log_weight))
        parts.append(
            pd.DataFrame(
                {
                    "system": system,
                    "source": np.repeat(["training", "pretrain"], 50),
                    "conformer": np.tile(np.arange(50), 2),
                    "energy_kj_mol": rng.normal(size=100),
                    "temperature_kelvin": 300.0,
                    "log_weight": log_weight,
                    "ess": ess,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
