"""The metrics: name, unit, bounds, and what each says in plain words. The only list of them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metric:
    """One metric: its unit, the values it can take, and its plain words (title and explanation)."""

    unit: str
    title: str
    words: str
    lower: float = -np.inf
    upper: float = np.inf


METRICS: dict[str, Metric] = {
    "conformers_finite": Metric(
        "", "finite conformers", "share of the conformers whose coordinates are numbers", 0.0, 1.0
    ),
    "ramachandran_jsd": Metric(
        "nats",
        "Ramachandran divergence",
        "how far the (φ, ψ) map is from the MD's: 0 the same, 0.69 nothing shared",
        0.0,
        float(np.log(2)),
    ),
    "population": Metric("", "basin population", "share of the conformers in a basin", 0.0, 1.0),
    "free_energy_kt": Metric("kT", "basin free energy", "−ln of the basin's population", 0.0),
    "free_energy_difference_kt": Metric("kT", "free-energy difference", "of the first basin from the second"),
    "free_energy_basin_error_kt": Metric(
        "kT", "basin error", "free energy less the MD's: positive where the ensemble has too little of the basin"
    ),
    "free_energy_error_kt": Metric(
        "kT", "basin free-energy error", "RMS over residues and counted basins of the free energy's error", 0.0
    ),
    "free_energy_difference_error_kt": Metric(
        "kT", "error of free-energy differences", "RMS over residues and pairs of counted basins", 0.0
    ),
    "bond_spread_nm": Metric("nm", "bond spread", "RMS over bonds of the standard deviation of their length", 0.0),
    "bond_mean_error_nm": Metric(
        "nm", "mean bond-length error", "RMS over bonds of the difference of mean lengths", 0.0
    ),
    "bond_spread_error_nm": Metric("nm", "bond-spread error", "RMS over bonds of the difference of spreads", 0.0),
    "bond_rms_error_nm": Metric("nm", "bond-length error", "RMS over bonds of the differences of mean and spread", 0.0),
    "angle_spread_deg": Metric("°", "angle spread", "RMS over bond angles of their standard deviation", 0.0),
    "angle_mean_error_deg": Metric("°", "mean bond-angle error", "RMS over angles of the difference of means", 0.0),
    "angle_spread_error_deg": Metric("°", "angle-spread error", "RMS over angles of the difference of spreads", 0.0),
    "angle_rms_error_deg": Metric(
        "°", "bond-angle error", "RMS over angles of the differences of mean and spread", 0.0
    ),
    "stereocentres_right": Metric(
        "", "stereocentres right", "share of stereocentres with the hand of the MD", 0.0, 1.0
    ),
    "clashes": Metric("", "clashes", "pairs of heavy atoms on top of each other, per conformer", 0.0),
    "median_energy_kt": Metric(
        "kT", "median relaxed energy", "median force-field energy after relaxation; against an MD: less the MD's median"
    ),
    "energy_p05_kt": Metric("kT", "5 % energy", "5th percentile of the relaxed energy"),
    "energy_p95_kt": Metric("kT", "95 % energy", "95th percentile of the relaxed energy"),
    "energy_w1_kt": Metric(
        "kT", "energy distance", "Wasserstein-1 distance of the relaxed energies from the MD's", 0.0
    ),
    "energy_failed": Metric("", "failed energies", "share of the scored conformers without an energy", 0.0, 1.0),
    "rmsf_nm": Metric("nm", "RMSF", "RMS fluctuation about the mean structure, RMS over atoms", 0.0),
    "rmsf_error_nm": Metric("nm", "RMSF error", "RMS over atoms of the difference of RMSFs", 0.0),
    "rmsf_correlation": Metric("", "RMSF correlation", "Pearson correlation of the RMSF over atoms", -1.0, 1.0),
    "mean_energy_kt": Metric("kT", "mean energy", "mean of the energies; against others: less their mean"),
    "cov_r": Metric(
        "", "COV-R", "share of the reference conformers that the ensemble finds, within the threshold", 0.0, 1.0
    ),
    "mat_r_nm": Metric("nm", "MAT-R", "mean RMSD of a reference conformer to the ensemble's nearest", 0.0),
    "cov_p": Metric(
        "", "COV-P", "share of the ensemble's conformers that are near a reference one, within the threshold", 0.0, 1.0
    ),
    "mat_p_nm": Metric("nm", "MAT-P", "mean RMSD of an ensemble's conformer to the nearest reference one", 0.0),
    "median_strain_kt": Metric(
        "kT", "median strain", "energy lost in a full relaxation; a failed conformer counts as the most strained"
    ),
    "chamfer_nm": Metric(
        "nm",
        "Chamfer distance",
        "to the nearest held-out cloud, superposed: mean distance of a point to the nearest of the other cloud",
        0.0,
    ),
    "shape_rmsd_nm": Metric(
        "nm", "RMSD of shapes", "to the nearest held-out cloud, after the best rotation and permutation", 0.0
    ),
    "pair_distance_w1_nm": Metric(
        "nm", "pair-distance distance", "Wasserstein-1 distance of the distances of all pairs of particles", 0.0
    ),
    "population_distance": Metric(
        "", "population distance", "half the sum of the differences of the wells' populations", 0.0, 1.0
    ),
    "equivariance_error_float32": Metric(
        "", "equivariance error, float32", "of the model, over random turns, shifts and permutations, relative", 0.0
    ),
    "equivariance_error_float64": Metric("", "equivariance error, float64", "the same in double precision", 0.0),
    "effective_share": Metric(
        "", "effective samples", "effective sample size of the importance weights, as a share of the samples", 0.0, 1.0
    ),
    "pareto_k": Metric(
        "",
        "Pareto k",
        "shape of the tail of the importance weights; nothing is claimed above 0.7 (less for few samples)",
    ),
    "log_density_error_nats": Metric(
        "nats", "log-density error", "RMS standard error of the log-densities from estimated traces", 0.0
    ),
    "pair_rmsd_nm": Metric("nm", "pairwise RMSD", "mean RMSD between two conformers of the ensemble", 0.0),
}

# Headline columns of the summary → (metric, against).
HEADLINE: dict[str, tuple[str, str]] = {
    "ramachandran_jsd": ("ramachandran_jsd", "reference"),
    "ramachandran_jsd_training": ("ramachandran_jsd", "training"),
    "free_energy_error_kt": ("free_energy_error_kt", "reference"),
    "free_energy_difference_error_kt": ("free_energy_difference_error_kt", "reference"),
    "stereocentres_right": ("stereocentres_right", ""),
    "bond_rms_error_nm": ("bond_rms_error_nm", "reference"),
    "angle_rms_error_deg": ("angle_rms_error_deg", "reference"),
    "clashes": ("clashes", ""),
    "median_energy_kt": ("median_energy_kt", "reference"),
    "energy_w1_kt": ("energy_w1_kt", "reference"),
    # Small molecules.
    "cov_r": ("cov_r", "reference"),
    "mat_r_nm": ("mat_r_nm", "reference"),
    "cov_p": ("cov_p", "reference"),
    "mat_p_nm": ("mat_p_nm", "reference"),
    "median_strain_kt": ("median_strain_kt", ""),
    # Systems of identical particles; the ones above that need residues or bonds are not measured there.
    "chamfer_nm": ("chamfer_nm", "reference"),
    "shape_rmsd_nm": ("shape_rmsd_nm", "reference"),
    "pair_distance_w1_nm": ("pair_distance_w1_nm", "reference"),
    "population_distance": ("population_distance", "reference"),
    "population_distance_exact": ("population_distance", "exact"),
    "free_energy_difference_error_exact_kt": ("free_energy_difference_error_kt", "exact"),
    "mean_energy_kt": ("mean_energy_kt", "reference"),
    "mean_energy_exact_kt": ("mean_energy_kt", "exact"),
    "equivariance_error_float32": ("equivariance_error_float32", ""),
    "equivariance_error_float64": ("equivariance_error_float64", ""),
}
