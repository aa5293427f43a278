"""Draws the demo's pictures: circles, squares and triangles with their boxes. Knows numpy only."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"  # float32 or float64, where nothing else is said

NAMES = ("circle", "square", "triangle")
RADIUS_PIXELS = (8.0, 21.0)  # of the circle around a shape; 96-pixel pictures hold a few of these
MOST_SHAPES = 4
COLOUR_DISTANCE = 0.45  # least distance in RGB (0 to 1 each) to the background's two colours
MOST_OVERLAP = 0.1  # greatest IoU of two shapes' boxes: nothing is hidden behind another shape
NOISE = 0.04  # standard deviation of the noise on every pixel, of a range of 1


class Pictures(NamedTuple):
    """Drawn pictures and what is on them.

    images: uint8, (pictures, 3, size, size). labels: per picture a float32 array (shapes, 5) of
    class, left, top, right, bottom in pixels.
    """

    images: Array
    labels: list[Array]


def draw(count: int, size: int, seed: int) -> Pictures:
    """`count` pictures of size × size pixels; the same seed draws the same pictures."""
    rng = np.random.default_rng(seed)
    images: Array = np.empty((count, 3, size, size), dtype=np.uint8)
    labels = []
    for index in range(count):
        canvas, found = _picture(rng, size)
        images[index] = np.clip(canvas * 255.0, 0.0, 255.0).astype(np.uint8).transpose(2, 0, 1)
        labels.append(found)
    return Pictures(images, labels)


def _picture(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """One canvas (size, size, 3) of 0 to 1, and its labels."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) + 0.5
    canvas, colours = _background(rng, rows, columns)
    labels: list[tuple[float, ...]] = []
    wanted = int(rng.integers(1, MOST_SHAPES + 1))
    for _ in range(20 * wanted):  # a crowded picture may have no room for the last shape
        if len(labels) == wanted:
            break
        kind = int(rng.integers(len(NAMES)))
        shape = _outline(rng, kind, size)
        box = _box(shape)
        if any(_overlap(box, label[1:]) > MOST_OVERLAP for label in labels):
            continue
        _paint(canvas, _distance(shape, rows, columns), _contrasting(rng, colours))
        labels.append((float(kind), *box))
    _add_noise(rng, canvas)
    return canvas, np.asarray(labels, dtype=np.float32)


def _add_noise(rng: np.random.Generator, canvas: Array) -> None:
    canvas += NOISE * rng.standard_normal(canvas.shape, dtype=np.float32)


def _background(rng: np.random.Generator, rows: Array, columns: Array) -> tuple[Array, Array]:
    """A gradient between two colours with a few thin lines that are not to be found."""
    colours = rng.uniform(0.0, 1.0, (2, 3)).astype(np.float32)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    ramp = np.cos(angle) * columns + np.sin(angle) * rows
    ramp = ((ramp - ramp.min()) / np.ptp(ramp))[..., None]
    canvas = ramp * colours[0] + (1.0 - ramp) * colours[1]
    for _ in range(int(rng.integers(0, 4))):
        through, angle = rng.uniform(0.0, len(rows), 2), rng.uniform(0.0, np.pi)
        across = np.abs(
            np.cos(angle) * (columns - through[0]) + np.sin(angle) * (rows - through[1])
        )
        _paint(canvas, across - 0.7, rng.uniform(0.0, 1.0, 3))
    return canvas, colours


def _contrasting(rng: np.random.Generator, colours: Array) -> Array:
    """A random colour that can be told from `colours`; after 50 tries the farthest one drawn."""
    tries = rng.uniform(0.0, 1.0, (50, 3))
    distance = np.linalg.norm(tries[:, None] - colours[None], axis=2).min(axis=1)
    far = np.flatnonzero(distance > COLOUR_DISTANCE)
    chosen: Array = tries[far[0] if len(far) else distance.argmax()]
    return chosen


def _outline(rng: np.random.Generator, kind: int, size: int) -> Array:
    """Centre x, y and radius of a circle, or the (corners, 2) of a polygon, in the picture."""
    radius = rng.uniform(*RADIUS_PIXELS)
    turn = rng.uniform(0.0, 2.0 * np.pi)
    if NAMES[kind] == "circle":
        circle: Array = np.array([*rng.uniform(radius, size - radius, 2), radius])
        return circle
    corners = {"square": 4, "triangle": 3}[NAMES[kind]]
    angles = turn + 2.0 * np.pi * np.arange(corners) / corners
    points = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    moved: Array = points + rng.uniform(-points.min(axis=0), size - points.max(axis=0))
    return moved


def _box(shape: Array) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of an outline."""
    if shape.ndim == 1:
        x, y, radius = shape.tolist()
        return x - radius, y - radius, x + radius, y + radius
    (left, top), (right, bottom) = shape.min(axis=0).tolist(), shape.max(axis=0).tolist()
    return left, top, right, bottom


def _distance(shape: Array, rows: Array, columns: Array) -> Array:
    """Pixels from each pixel's centre to the outline, negative inside."""
    distance: Array
    if shape.ndim == 1:
        x, y, radius = shape.tolist()
        distance = np.hypot(columns - x, rows - y) - radius
        return distance
    edges = np.roll(shape, -1, axis=0) - shape
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)  # outwards: corners run clockwise
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = np.stack([columns, rows], axis=2)[:, :, None] - shape  # from every corner
    distance = (points * normals).sum(axis=3).max(axis=2)
    return distance


def _paint(canvas: Array, distance: Array, colour: Array) -> None:
    """Put `colour` where `distance` is negative, with one pixel of soft edge, in place."""
    cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
    canvas += (cover * (colour - canvas)).astype(canvas.dtype)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)
