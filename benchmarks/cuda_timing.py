"""Times on a GPU: the host's and the device's, each alone; with the data in the L2 cache and not.

Must not know any hot path.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from . import harness

ROUNDS = 30
WARM_UP = 3
# A call that keeps the host busy for longer is not timed on the device, and warmed up once.
LONG_CALL_S = 0.2
# The device waits for so much longer than the host takes to launch a call, so that the call's
# kernels follow each other without gaps.
WAIT_FACTOR = 1.5
CYCLES_PER_S = 2.0e9  # of torch.cuda._sleep; a slower clock only waits longer

COLUMNS = (
    harness.Column("operation", "operation"),
    harness.Column("input", "input"),
    harness.Column("who", "who"),
    harness.Column("host µs", "host_us", "{:.1f}"),
    harness.Column("device µs, L2 cold", "cold_us", "{:.1f}"),
    harness.Column("device µs, L2 warm", "warm_us", "{:.1f}"),
    harness.Column("call to idle µs", "total_us", "{:.1f}"),
    harness.Column("launches", "launches", "{:d}"),
    harness.Column("package faster by (host)", "host_ratio", "{:.1f}×"),
    harness.Column("(device, cold)", "cold_ratio", "{:.1f}×"),
    harness.Column("(call to idle)", "total_ratio", "{:.1f}×"),
    harness.Column("GB/s, cold", "gb_per_s", "{:.0f}"),
)


class Times(NamedTuple):
    """Medians of one candidate, in seconds; None where the device's time was not taken."""

    host_s: float
    cold_s: float | None
    warm_s: float | None
    total_s: float
    launches: int


def measure(candidates: Sequence[harness.Candidate], rounds: int = ROUNDS) -> dict[str, Times]:
    """Time the candidates in turns: A B C, A B C …; median of each kind of time."""
    flush = _Flush()
    samples: dict[str, list[tuple[float, float]]] = {c.name: [] for c in candidates}
    device: dict[str, list[tuple[float, float]]] = {c.name: [] for c in candidates}
    for candidate in candidates:
        for _ in range(WARM_UP):
            if _host(candidate)[0] > LONG_CALL_S:
                break
    launches = {candidate.name: _launches(candidate) for candidate in candidates}
    for _ in range(rounds):
        for candidate in candidates:
            host, total = _host(candidate)
            samples[candidate.name].append((host, total))
            if host <= LONG_CALL_S:
                times = (_device(candidate, host, flush), _device(candidate, host, None))
                device[candidate.name].append(times)
    found = {}
    for name, taken in samples.items():
        host, total = (statistics.median(kind) for kind in zip(*taken, strict=True))
        cold, warm = (
            (statistics.median(kind) for kind in zip(*device[name], strict=True))
            if device[name]
            else (None, None)
        )
        found[name] = Times(host, cold, warm, total, launches[name])
    return found


class _Flush:
    """Writes twice as many bytes as the L2 cache holds."""

    def __init__(self) -> None:
        size = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
        self._memory = torch.empty(2 * size, dtype=torch.uint8, device="cuda")

    def __call__(self) -> None:
        self._memory.fill_(1)


def _renew(candidate: harness.Candidate) -> None:
    if candidate.renew is not None:
        candidate.renew()


def _host(candidate: harness.Candidate) -> tuple[float, float]:
    """The seconds until the call returns, and until the idle device is idle again."""
    _renew(candidate)
    torch.cuda.synchronize()
    start = time.perf_counter()
    candidate.call()
    returned = time.perf_counter()
    torch.cuda.synchronize()
    return returned - start, time.perf_counter() - start


def _device(candidate: harness.Candidate, host_s: float, flush: _Flush | None) -> float:
    """The seconds between two events around the call; the device never waits for the host."""
    _renew(candidate)
    if flush is not None:
        flush()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int(WAIT_FACTOR * (host_s + 1e-4) * CYCLES_PER_S))
    begin.record()
    candidate.call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _launches(candidate: harness.Candidate) -> int:
    """Kernels, copies and fills that one call puts on the device."""
    _renew(candidate)
    torch.cuda.synchronize()
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profiler:
        candidate.call()
        torch.cuda.synchronize()
    device = torch.autograd.DeviceType.CUDA
    return sum(event.device_type == device for event in profiler.events())


def rows(
    operation: str, what: str, times: dict[str, Times], package: str, moved_bytes: int
) -> list[dict[str, object]]:
    """One row per candidate; `package` is the measure of all."""
    own = times[package]
    made = []
    for name, found in times.items():
        row: dict[str, object] = {"operation": operation, "input": what, "who": name}
        row.update(launches=found.launches)
        for kind in ("host", "cold", "warm", "total"):
            seconds, measure_s = getattr(found, f"{kind}_s"), getattr(own, f"{kind}_s")
            row[f"{kind}_us"] = None if seconds is None else seconds * 1e6
            if name != package and seconds is not None and measure_s is not None:
                row[f"{kind}_ratio"] = seconds / measure_s
        if name == package and found.cold_s is not None:
            row["gb_per_s"] = moved_bytes / found.cold_s / 1e9
        made.append(row)
    return made


def device_line() -> str:
    """The GPU, its driver, torch's CUDA and the library, as one line."""
    from yolov5_utils import _C

    properties = torch.cuda.get_device_properties(0)
    info = _C.cuda_info(0)
    return (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, "
        f"driver {_driver()}, torch {torch.__version__}; library built for {info['architectures']}"
    )


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.check_output(command, text=True).splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
