"""Units of the house and the only place with physical constants.

Lengths are nm, times ps, energies kJ/mol, temperatures K, masses amu (OpenMM's own units). Names carry the unit
as a suffix (``positions_nm``, ``energy_kj_mol``); a name without one is dimensionless.
"""

MOLAR_GAS_CONSTANT_KJ_MOL_K = 0.008_314_462_618_153_24
"""R = k_B N_A, exact since the 2019 SI (CODATA 2018)."""

ANGSTROM_PER_NM = 10.0
BOHR_NM = 0.052_917_721_090_3
"""Bohr radius, CODATA 2018 (uncertain by 8e-12 nm)."""
KJ_PER_KCAL = 4.184
"""Thermochemical calorie, exact by definition."""
HARTREE_KJ_MOL = 2_625.499_639_479_9
"""Hartree energy per mole, E_h N_A: 4.359 744 722 2071e-18 J (CODATA 2018) × 6.022 140 76e23 / 1000."""
FEMTOSECONDS_PER_PS = 1000.0
PICOSECONDS_PER_NS = 1000.0


def thermal_energy_kj_mol(temperature_kelvin: float) -> float:
    """Thermal energy per mole, kT = R T.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature_kelvin > 0:
        raise ValueError(f"a temperature must be positive, in kelvin; got {temperature_kelvin}")
    return MOLAR_GAS_CONSTANT_KJ_MOL_K * temperature_kelvin
