"""Clouds of points drawn independently from a law with a known density, in reduced lengths."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ancdiff.config import PointsSettings

Clouds = Float[np.ndarray, "clouds points 3"]


def draw_clouds(settings: PointsSettings, n_clouds: int, rng: np.random.Generator) -> Clouds:
    """Clouds of ``n_points`` points each, reduced lengths, not centred. Draws from ``rng``."""
    return _LAWS[settings.law](settings, (n_clouds, settings.n_points), rng)


def _mixture(settings: PointsSettings, shape: tuple[int, int], rng: np.random.Generator) -> Clouds:
    """x ~ ½ N(μ₁, 1) + ½ N(μ₂, 1), each point on its own."""
    means = np.array(settings.means)
    return means[rng.integers(2, size=shape)] + rng.normal(size=(*shape, 3))


def _sphere(settings: PointsSettings, shape: tuple[int, int], rng: np.random.Generator) -> Clouds:
    """Uniform on the sphere of radius R, with Gaussian jitter."""
    direction = rng.normal(size=(*shape, 3))
    return _jittered(settings, settings.radius * direction / np.linalg.norm(direction, axis=-1, keepdims=True), rng)


def _helix(settings: PointsSettings, shape: tuple[int, int], rng: np.random.Generator) -> Clouds:
    """Uniform along the right-handed helix (R cos φ, R sin φ, pitch φ/2π), with Gaussian jitter."""
    angle = 2 * np.pi * settings.turns * rng.random(shape)
    rise = settings.pitch * angle / (2 * np.pi)
    curve = np.stack([settings.radius * np.cos(angle), settings.radius * np.sin(angle), rise], axis=-1)
    return _jittered(settings, curve, rng)


def _torus(settings: PointsSettings, shape: tuple[int, int], rng: np.random.Generator) -> Clouds:
    """Uniform on the surface of the torus, with Gaussian jitter.

    An area at the angle θ of the tube is proportional to R + r cos θ, so θ is drawn by rejection.
    """
    ring, tube = settings.radius, settings.tube_radius
    theta = np.empty(int(np.prod(shape)))
    todo = np.arange(len(theta))
    while len(todo):
        drawn = 2 * np.pi * rng.random(len(todo))
        taken = rng.random(len(todo)) * (ring + tube) < ring + tube * np.cos(drawn)
        theta[todo[taken]] = drawn[taken]
        todo = todo[~taken]
    theta, phi = theta.reshape(shape), 2 * np.pi * rng.random(shape)
    out = ring + tube * np.cos(theta)
    return _jittered(settings, np.stack([out * np.cos(phi), out * np.sin(phi), tube * np.sin(theta)], axis=-1), rng)


def _jittered(settings: PointsSettings, points: Clouds, rng: np.random.Generator) -> Clouds:
    return points + settings.jitter * rng.normal(size=points.shape)


_LAWS: dict[str, Callable[[PointsSettings, tuple[int, int], np.random.Generator], Clouds]] = {
    "mixture": _mixture,
    "sphere": _sphere,
    "helix": _helix,
    "torus": _torus,
}
