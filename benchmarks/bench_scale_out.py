"""An update of the EMA by many processes: measured on this machine, and computed for more.

Compared are the ways to keep an average of a model that FSDP2 has sharded. Each rank is a process
with one thread; gloo carries what some of the ways send.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from yolov5_utils import ShardedEMA
from yolov5_utils.torch_utils import ModelEMA

from . import checks, harness, models, peers, plot_scale_out

BYTES_PER_ELEMENT = 12  # average and model read, average written, float32
SHARDED, SAME, LERP = (
    "ShardedEMA",
    "ModelEMA on as many bytes",
    "lerp over lists of DTensors (torchtitan)",
)
RANK_0, GATHER = "original on rank 0, others wait", "full gather on all ranks, then ModelEMA"
MANY = (8, 64, 1024)
LINK_GB_PER_S = 50.0  # what a rank receives in an all-gather: a 400 Gbit/s network card each
LIMIT_S = 900  # of a rank
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
COLUMNS = (
    *(harness.MODEL, harness.Column("ranks", "ranks", "{:d}"), harness.WHO),
    harness.Column("MB read and written per rank", "local_mb", "{:.1f}"),
    harness.Column("MB received per rank", "received_mb", "{:.1f}"),
    *harness.times_of(harness.COLD),
    harness.Column("of ModelEMA's time on as many bytes", "ratio", "{:.2f}×"),
)
TIME = f"{harness.COLD}_quartile_ms"
PAPER_COLUMNS = (*COLUMNS[:3], harness.Column("computed ms", TIME, "{:.3f}"))


def shard(model: nn.Module) -> nn.Module:
    """As a training does: each layer for itself, and the rest."""
    from torch.distributed.fsdp import fully_shard  # torch 2.6

    for layer in model.model:  # type: ignore[union-attr]
        fully_shard(layer)
    return fully_shard(model)


def of_parts(name: str, average: ShardedEMA) -> nn.Module:
    """A plain model whose tensors have the sizes of this rank's parts."""
    model = models.build(name, seed=1)
    state = model.state_dict(keep_vars=True)
    for key, part in zip(state, average.ema._buffers.values(), strict=True):
        path, _, last = key.rpartition(".")
        module, new = model.get_submodule(path), part.detach().clone()
        if last in module._parameters:
            module._parameters[last] = nn.Parameter(new, requires_grad=False)
        else:
            module._buffers[last] = new
    return model


def lerp(model: nn.Module) -> Callable[[], None]:
    """One lerp over the lists of parameters, which are DTensors: other bits, and no buffers."""
    sources = list(model.parameters())
    averages = [source.detach().clone() for source in sources]

    def update() -> None:
        with torch.no_grad():
            torch._foreach_lerp_(averages, [source.detach() for source in sources], 1e-4)

    return update


def together(call: Callable[[], object], seconds: float) -> harness.Timing:
    """Of a call in which all ranks take part, from one barrier to the next; caches cold."""
    taken: list[float] = []
    rounds = torch.tensor(0)
    call()
    begin = time.perf_counter()
    call()
    rounds.fill_(max(harness.MIN_ROUNDS, int(seconds / (time.perf_counter() - begin))))
    dist.broadcast(rounds, 0)
    for _ in range(int(rounds)):
        harness.touch()
        dist.barrier()
        begin = time.perf_counter()
        call()
        dist.barrier()
        taken.append(time.perf_counter() - begin)
    return harness.Timing.of(taken)


def measure_rank(name: str, seconds: float) -> dict[str, Any]:
    """What one rank measures while the others do the same."""
    whole = models.build(name, seed=0)
    elements = models.count(whole).float_elements
    first = dist.get_rank() == 0
    sharded = shard(deepcopy(whole))
    average = ShardedEMA(sharded, peers.DECAY)
    plain = of_parts(name, average)
    same, tiny = ModelEMA(plain, peers.DECAY), shard(models.skeleton(whole))
    host = ShardedEMA(tiny, peers.DECAY)
    with checks.ran("ema"):
        average.update(sharded)
    local = sum(p.numel() for p in average.ema._buffers.values() if p.is_floating_point())
    local_ways = [
        harness.Candidate(SHARDED, lambda: average.update(sharded)),
        harness.Candidate(SAME, lambda: same.update(plain)),
        harness.Candidate(LERP, lerp(sharded)),
        harness.Candidate(f"{SHARDED}, host", lambda: host.update(tiny)),
        harness.Candidate(f"{LERP}, host", lerp(tiny)),
        harness.update_bandwidth(local),
    ]
    timings = {who: both.cold for who, both in harness.interleave(local_ways, seconds).items()}
    original, gathering = peers.OriginalEMA(whole), ModelEMA(whole, peers.DECAY)

    def gather() -> None:
        with torch.no_grad():
            for target, source in zip(whole.parameters(), sharded.parameters(), strict=True):
                target.copy_(source.full_tensor())  # type: ignore[operator]
        gathering.update(whole)

    timings[RANK_0] = together(lambda: original.update(whole) if first else None, seconds)
    timings[GATHER] = together(gather, seconds)
    return {"elements": elements, "local": local, "timings": timings}


def rank_main(rank: int, world: int, store: str, name: str, seconds: float) -> None:
    """One process of a measurement; the last line of its output is what it found."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=LIMIT_S),
    )
    print(json.dumps(measure_rank(name, seconds)), flush=True)
    dist.destroy_process_group()


def measured_on(name: str, world: int, seconds: float) -> list[dict[str, Any]]:
    """What each of so many ranks found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.bench_scale_out", "--models", name]
        command += ["--seconds", str(seconds), "--store", f"{folder}/store", "--ranks", str(world)]
        ranks = [
            subprocess.Popen(
                [*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True, env=environment
            )
            for rank in range(world)
        ]
        try:
            said = [rank.communicate(timeout=LIMIT_S)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    return [json.loads(text.splitlines()[-1]) for text in said]


def rows_of(name: str, world: int, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per way: of the slowest rank, which the others wait for."""
    whole, local = found[0]["elements"], max(rank["local"] for rank in found)
    received = 4 * whole * (world - 1) / world / 1e6
    moved = {RANK_0: whole, GATHER: whole}
    rows = []
    for who in found[0]["timings"]:
        timings = [harness.Timing(*rank["timings"][who]) for rank in found]
        slowest = max(timings, key=lambda timing: timing.quartile_s)
        row: dict[str, Any] = {"model": name, "ranks": world, "who": who}
        row.update(harness.times(harness.COLD, slowest))
        row["local_mb"] = 0.0 if who.endswith("host") else moved.get(who, local) * 12 / 1e6
        row["received_mb"] = received if who == GATHER else 0.0
        rows.append(row)
        if who == SHARDED:
            plain = [harness.Timing(*rank["timings"][SAME]) for rank in found]
            ratios = [a.quartile_s / b.quartile_s for a, b in zip(timings, plain, strict=True)]
            row["ratio"] = statistics.median(ratios)
    return rows


def computed(name: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same for more ranks than were measured, from what one rank took alone."""
    of = {row["who"]: row for row in rows if row["model"] == name and row["ranks"] == 1}
    whole_mb = of[SHARDED]["local_mb"]
    alone_ms = of[SAME][TIME]
    for ranks in MANY:
        received_ms = whole_mb / 3 * (ranks - 1) / ranks / LINK_GB_PER_S
        ways = {
            SHARDED: of[f"{SHARDED}, host"][TIME] + alone_ms / ranks,
            LERP: of[f"{LERP}, host"][TIME] + alone_ms / ranks,
            RANK_0: of[RANK_0][TIME],
            GATHER: alone_ms + received_ms,
        }
        for who, taken_ms in ways.items():
            yield {"model": name, "ranks": ranks, "who": who, TIME: taken_ms}


def tables(names: list[str], worlds: list[int], seconds: float) -> list[harness.Table]:
    """What was measured, and what follows for more ranks."""
    rows = [
        row
        for name in names
        for world in worlds
        for row in rows_of(name, world, measured_on(name, world, seconds))
    ]
    notes = [
        f"{harness.usable_cores()} cores: more ranks than these wait for each other's cores",
        "the last column: of each rank's lower quartiles, the median over the ranks",
        "host: on a model of tiny tensors, which leaves what does not depend on sizes",
    ]
    more = [row for name in names for row in computed(name, rows)]
    paper = [f"all-gather at {LINK_GB_PER_S:g} GB/s per rank, and no latency"]
    return [
        harness.Table("An update, measured", COLUMNS, rows, notes),
        harness.Table("An update, computed", PAPER_COLUMNS, more, paper),
    ]


def main() -> None:
    """Run from the command line, by hand or, with --rank, as one of the processes."""
    options = argparse.ArgumentParser(description=__doc__)
    harness.add_models(options, "s,x")
    options.add_argument("--ranks", type=harness.counts_of, default="1,2,4")
    options.add_argument("--seconds", type=float, default=6.0, help="per model and number of ranks")
    options.add_argument("--docs", type=Path, help="put figures, picture and tables there")
    harness.add_json(options)
    for hidden, kind in (("--rank", int), ("--store", str)):
        options.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.rank is not None:
        rank_main(chosen.rank, chosen.ranks[0], chosen.store, chosen.models[0], chosen.seconds)
        return
    document = chosen.docs and chosen.docs / "scale-out.md"
    if document:
        harness.around_marks(document, BEGIN, END)  # before minutes of measuring
    about = harness.machine()
    measured = tables(chosen.models, chosen.ranks, chosen.seconds)
    harness.show(about, measured, chosen.json)
    if document:
        content = harness.content(about, measured)
        harness.write_json(content, chosen.docs / "scale-out.json")
        plot_scale_out.draw(content, chosen.docs / "figures" / plot_scale_out.NAME)
        sections = [f"Measured on: {harness.machine_line(about)}."]
        sections += [table.markdown() for table in measured]
        harness.write_between_marks(document, BEGIN, END, sections)


if __name__ == "__main__":
    main()
