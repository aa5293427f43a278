"""Draws the demo's pictures: circles, squares and triangles with their boxes. Knows numpy only."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

NAMES = ("circle", "square", "triangle")
CORNERS = (32, 4, 3)  # of the regular polygon that each is drawn as
SIZE_PIXELS = 96  # of a picture, which has shapes in some of its quarters: learnt in a minute
RADIUS_PIXELS = (8.0, 21.0)  # of the circle around a shape: it fits into a quarter
NOISE = 0.04  # standard deviation of the noise on every pixel, of a range of 1


def draw(count: int, seed: int) -> tuple[Array, list[Array]]:
    """`count` pictures; the same seed draws the same pictures.

    Images: uint8, (pictures, 3, size, size). Labels: per picture a float32 array (shapes, 5) of
    class, left, top, right, bottom in pixels.
    """
    rng = np.random.default_rng(seed)
    canvases, labels = zip(*(_picture(rng) for _ in range(count)), strict=True)
    images = np.clip(np.stack(canvases) * 255.0, 0.0, 255.0).astype(np.uint8)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), list(labels)


def _picture(rng: np.random.Generator) -> tuple[Array, Array]:
    """One canvas (size, size, 3) of 0 to 1, a gradient with shapes on it, and their labels."""
    pixels = np.stack(np.mgrid[0:SIZE_PIXELS, 0:SIZE_PIXELS][::-1], axis=-1) + 0.5
    colours, angle = rng.uniform(0.0, 1.0, (2, 3)), rng.uniform(0.0, 2.0 * np.pi)
    ramp = 0.5 + (pixels / SIZE_PIXELS - 0.5) @ (np.cos(angle), np.sin(angle)) / np.sqrt(2.0)
    canvas: Array = colours[0] + ramp[..., None] * (colours[1] - colours[0])
    labels = []
    for quarter in rng.permutation(4)[: rng.integers(1, 5)]:
        kind = int(rng.integers(len(NAMES)))
        corners = outline(rng, CORNERS[kind]) + SIZE_PIXELS / 2 * np.array(divmod(quarter, 2))
        tries = rng.uniform(0.0, 1.0, (8, 3))  # the farthest from the background's colours is taken
        apart = np.linalg.norm(tries[:, None] - colours, axis=2).min(axis=1)
        cover = np.clip(0.5 - distance(corners, pixels), 0.0, 1.0)[..., None]  # a soft edge
        canvas += cover * (tries[apart.argmax()] - canvas)
        labels.append((float(kind), *corners.min(axis=0), *corners.max(axis=0)))
    canvas += NOISE * rng.standard_normal(canvas.shape)
    return canvas, np.asarray(labels, dtype=np.float32)


def outline(rng: np.random.Generator, corners: int) -> Array:
    """The (corners, 2) of a regular polygon, turned anyhow, somewhere in the first quarter."""
    angles = rng.uniform(0.0, 2.0 * np.pi) + 2.0 * np.pi * np.arange(corners) / corners
    points = rng.uniform(*RADIUS_PIXELS) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    moved: Array = points + rng.uniform(-points.min(axis=0), SIZE_PIXELS / 2 - points.max(axis=0))
    return moved


def distance(corners: Array, pixels: Array) -> Array:
    """Pixels from each pixel's centre to the polygon's nearest edge, negative inside."""
    edges = np.roll(corners, -1, axis=0) - corners
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)  # outwards: corners run clockwise
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    furthest: Array = (pixels @ normals.T - (corners * normals).sum(axis=1)).max(axis=-1)
    return furthest
