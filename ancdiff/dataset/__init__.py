"""Reads, checks and splits the trajectories that models learn from and are compared with."""
