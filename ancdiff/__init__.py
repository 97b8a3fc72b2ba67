"""ancdiff: conformational ensembles from SE(3)-equivariant diffusion, aligned with force-field energies."""

__version__ = "0.1.0"
