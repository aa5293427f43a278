"""Trains the demo's detector by several processes, sharded, with an average of it: from a checkout,

    torchrun --nproc-per-node 2 -m examples.train_fsdp2 --output FOLDER

Run again with the same folder it goes on from there, also with another number of processes. FOLDER
gets a sharded checkpoint after each epoch, and `best.pt`, which a single process reads.
docs/scale-out.md explains each step.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from examples.demo import learn, model, shapes
from examples.demo.score import as_floats
from yolov5_utils.distributed import ShardedEMA, launched_as, torch_distributed_zero_first
from yolov5_utils.torch_utils import copy_attr

BATCH, LEARNING_RATE = 16, 3e-3
Pictures = tuple[Tensor, list[Tensor]]


def pictures(folder: Path, count: int) -> Pictures:
    """Drawn once on each machine, by its local rank 0, and read by all of its ranks."""
    file = folder / f"pictures-{count}.pt"
    with torch_distributed_zero_first(launched_as("LOCAL_RANK"), timeout_s=600):
        if not file.exists():
            images, labels = shapes.draw(count, seed=1)
            torch.save((torch.from_numpy(images), [*map(torch.from_numpy, labels)]), file)
    images, labels = torch.load(file, weights_only=True)
    return images, labels


def batches(drawn: Pictures, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of an epoch; every rank has as many batches, as FSDP needs it."""
    order = torch.randperm(len(drawn[0]), generator=torch.Generator().manual_seed(epoch))
    world = dist.get_world_size()
    mine = order[: len(order) // world * world][dist.get_rank() :: world]
    for part in mine.split(BATCH):
        yield as_floats(drawn[0][part]), learn.flatten([drawn[1][i] for i in part.tolist()])


def mean_loss(detector: model.Detector, drawn: Pictures) -> float:
    """Over all ranks; every rank calls it, since FSDP gathers the weights in each forward pass."""
    with torch.no_grad():
        losses = [learn.loss_of(detector, detector(x), y) for x, y in batches(drawn, epoch=0)]
    total = torch.stack(losses).mean()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def newest(folder: Path) -> Path | None:
    """The last checkpoint that was finished: only then torch writes its .metadata."""
    done = [file.parent for file in folder.glob("checkpoint-*/.metadata")]
    return max(done, key=lambda path: int(path.name.partition("-")[2]), default=None)


def plain(average: ShardedEMA) -> model.Detector | None:
    """The averaged detector in one piece, as a plain YOLOv5 keeps it; on rank 0 alone."""
    whole = average.full_state_dict()  # every rank takes part
    if not whole:
        return None
    detector = model.build(shapes.NAMES, shapes.SIZE_PIXELS, seed=0)
    detector.load_state_dict(whole)
    copy_attr(detector, average.attributes)
    return detector.half().eval()


def train(folder: Path, epochs: int, count: int) -> None:
    """Some epochs more, and a checkpoint after each."""
    drawn = pictures(folder, count)
    detector = model.build(shapes.NAMES, shapes.SIZE_PIXELS, seed=0)  # the same on every rank
    for layer in detector.model:
        fully_shard(layer)
    fully_shard(detector)
    average = ShardedEMA(detector, tau=100)
    optimizer = torch.optim.AdamW(detector.parameters(), LEARNING_RATE)
    found = newest(folder)
    if found is not None:
        weights, momenta = get_state_dict(detector, optimizer)
        dcp.load({"model": weights, "optimizer": momenta, "ema": average}, checkpoint_id=found)
        set_state_dict(detector, optimizer, model_state_dict=weights, optim_state_dict=momenta)
    for epoch in range(epochs):
        detector.train()
        for images, labels in batches(drawn, epoch):
            learn.loss_of(detector, detector(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update(detector)  # every rank its own part, no communication
        own = mean_loss(detector, drawn)
        with average.swap(detector):
            averaged = mean_loss(detector, drawn)
        average.update_attr(detector, include=["names", "stride"])
        weights, momenta = get_state_dict(detector, optimizer)
        dcp.save(
            {"model": weights, "optimizer": momenta, "ema": average},
            checkpoint_id=folder / f"checkpoint-{average.updates}",
        )
        whole = plain(average)
        if whole is not None:
            torch.save({"ema": whole, "updates": average.updates}, folder / "best.pt")
            print(f"{average.updates} updates: loss {own:.3f}, of the average {averaged:.3f}")


def main() -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--output", type=Path, required=True, help="folder for what is written")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--pictures", type=int, default=320)
    chosen = options.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    dist.init_process_group("gloo")
    train(chosen.output, chosen.epochs, chosen.pictures)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
