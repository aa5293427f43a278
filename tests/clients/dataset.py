"""Draws a small data set in YOLO's format: coloured rectangles of three classes on noise.

dataset.py FOLDER   Writes images, labels and FOLDER/data.yaml; the same every time.
"""

import sys
from pathlib import Path

import numpy
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 160, 120
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230)}
COUNTS = {"train": 32, "val": 16}


def draw(random, picture_file, label_file):
    noise = random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=numpy.uint8)
    picture = Image.fromarray(noise)
    pen = ImageDraw.Draw(picture)
    lines = []
    for _ in range(random.integers(1, 4)):
        kind = int(random.integers(len(COLOURS)))
        width, height = (int(size) for size in random.integers(24, 72, 2))
        left, top = (int(random.integers(0, free)) for free in (WIDTH - width, HEIGHT - height))
        pen.rectangle((left, top, left + width, top + height), list(COLOURS.values())[kind])
        centre = (left + width / 2) / WIDTH, (top + height / 2) / HEIGHT
        box = (*centre, width / WIDTH, height / HEIGHT)
        lines.append(f"{kind} " + " ".join(f"{number:.6f}" for number in box))
    picture.save(picture_file)
    label_file.write_text("\n".join(lines) + "\n")


folder = Path(sys.argv[1]).resolve()
random = numpy.random.default_rng(7)
for part, count in COUNTS.items():
    for kind in ("images", "labels"):
        (folder / kind / part).mkdir(parents=True)
    for number in range(count):
        name = f"{part}/{number:03}"
        draw(random, folder / "images" / f"{name}.png", folder / "labels" / f"{name}.txt")
lines = [f"path: {folder}", "train: images/train", "val: images/val"]
lines += [f"nc: {len(COLOURS)}", f"names: [{', '.join(COLOURS)}]"]
(folder / "data.yaml").write_text("\n".join(lines) + "\n")
