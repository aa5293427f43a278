"""Everything that can be checked and measured on a GPU, in stages with limits: make gpu.

python -m tools.gpu_check [--only STAGE,…] [--docs]

Without a GPU the emulated kernels and the stand-in for a driver are run, and a sentence names what
was not. A stage is a line of bash; what it says is in build/gpu/STAGE.log, and all results are in
build/gpu/run.json. Ends with status 1 where a stage failed, or was cut off by its limit."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "gpu"
DOCS = ROOT / "docs"
DEADLINE_S = 580  # of all stages together
NOT_RUN = 77  # a command's status where something it needs is not there: its last line says what
SHOWN_LINES = 25  # of the log of a stage that failed

LIBRARY = "yolov5_utils/libyolov5_utils_cuda.so"
# Where the package does not use the library, tests of it are skipped.
TESTS = """
$python -c 'import sys; from yolov5_utils import _C; sys.exit(_C.cuda_info(0)["problem"])'
cd tests/unit
$pytest test_gpu.py test_devices.py test_devices_explain.py test_fuse_gpu.py -k "cuda or gpu"
"""
SANITIZER = """
command -v compute-sanitizer >/dev/null || { echo "there is no compute-sanitizer"; exit 77; }
watch() { compute-sanitizer --tool "$1" --error-exitcode 9 $out/kernels $library libcuda.so.1 $2; }
for tool in memcheck racecheck synccheck initcheck; do echo "--- $tool"; watch $tool ""; done
! watch memcheck overrun || { echo "memcheck does not report a planted overrun"; exit 1; }
echo "nothing found, but for a planted overrun"
"""
KERNELS = """
cc -std=c11 -O1 -Icsrc -Icuda tools/gpu_kernels.c -o $out/kernels -ldl
$out/kernels $library libcuda.so.1
"""
BENCH = """
$python -m benchmarks.bench_cuda --models n --json $out/bench-n.json
$python -m benchmarks.bench_cuda --models x --operations ema,sparsity,prune --json $out/bench-x.json
"""
HOST = """
$python -m benchmarks.bench_cuda_host --device $device --models n,x --seconds 2 \
  --json $out/host.json
"""
PROFILE = """
command -v ncu >/dev/null || { echo "there is no ncu"; exit 77; }
ncu --clock-control none --kernel-name regex:^y5_ --section SpeedOfLight --section Occupancy \
  --section LaunchStats $python -m benchmarks.launches && exit
! grep -q ERR_NVGPUCTRPERM $out/ncu.log || { echo "the driver lets only root count"; exit 77; }
exit 1
"""


class Stage(NamedTuple):
    """Something to check or measure."""

    name: str
    limit_s: int
    needs_gpu: bool
    command: str  # of bash, in the root; knows $python, $pytest, $out, $library, $device


# What needs a GPU comes first: on a borrowed one there may be no time for the rest.
STAGES = (
    Stage("build", 150, True, "YOLOV5_UTILS_CUDA=1 $python setup.py -q build_ext --inplace"),
    Stage("kernels", 30, True, KERNELS),
    Stage("sanitizer", 120, True, SANITIZER),
    Stage("tests", 180, True, TESTS),
    Stage("verify", 60, True, "YOLOV5_UTILS_VERIFY=1 $pytest tests/unit/test_gpu.py"),
    Stage("host", 90, False, HOST),
    Stage("bench", 120, True, BENCH),
    Stage("training", 120, True, "$python -m benchmarks.bench_training --device cuda "
          "--json $out/training.json"),
    Stage("ncu", 60, True, PROFILE),
    Stage("stand-in", 150, False, '$pytest tests/cuda -m "not long and not slow"'),
    Stage("emulated", 420, False, '$pytest tests/emu -m "not long" --dist loadfile'),
)  # fmt: skip

# What is asked in a process of its own: torch must not hold the device that stages measure.
ASK_TORCH = """
import json, torch
found = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__,
    "device": torch.cuda.get_device_name(0) if found else None,
    "capability": torch.cuda.get_device_capability(0) if found else None,
}))
"""


def output_of(*command: str) -> str | None:
    """What a command prints; None where it fails or is not there."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
        )
        return done.stdout.strip()
    return None


def facts() -> dict[str, Any]:
    """What a run's figures depend on, beside the machine of each table."""
    asked = output_of(sys.executable, "-c", ASK_TORCH)
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    told = output_of(*query)
    return {
        **(json.loads(asked) if asked else {"torch": None, "device": None}),
        "nvidia_smi": told.splitlines()[0] if told else None,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "commit": output_of("git", "rev-parse", "--short=10", "HEAD"),
        "changed": bool(output_of("git", "status", "--porcelain", "--untracked-files=no")),
        "date": time.strftime("%Y-%m-%d"),
    }


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a command and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(stage: Stage, allowed_s: float, device: str) -> dict[str, Any]:
    """One stage: its result, and what there is to say of it."""
    log, begin = FOLDER / f"{stage.name}.log", time.monotonic()
    environment = {
        **os.environ,
        "python": sys.executable,
        "pytest": f"{sys.executable} -m pytest -q -n auto --maxprocesses 8 -p no:cacheprovider",
        "out": str(FOLDER),
        "library": LIBRARY,
        "device": device,
        "PATH": f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin",
    }
    with log.open("wb") as written:
        process = subprocess.Popen(
            ["bash", "-euc", stage.command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=allowed_s)
            said = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
        except subprocess.TimeoutExpired:
            status, said = 1, f"cut off after {allowed_s:.0f} s"
        finally:
            end_group(process)
    result = {0: "passed", NOT_RUN: "not run"}.get(status, "FAILED")
    seconds = round(time.monotonic() - begin, 1)
    return {"stage": stage.name, "result": result, "seconds": seconds, "says": said[:100]}


def run_all(stages: list[Stage], has_gpu: bool) -> list[dict[str, Any]]:
    """The results of all stages, those that cannot be run among them."""
    results, end = list[dict[str, Any]](), time.monotonic() + DEADLINE_S
    for stage in stages:
        left = end - time.monotonic()
        if stage.needs_gpu and not has_gpu:
            told = {"stage": stage.name, "result": "not run", "seconds": 0.0, "says": "no GPU"}
        elif left < 1:
            told = {"stage": stage.name, "result": "FAILED", "seconds": 0.0, "says": "no time left"}
        else:
            told = run(stage, min(left, stage.limit_s), "cuda" if has_gpu else "cpu")
        results.append(told)
        print("{stage:10} {result:8} {seconds:6.1f} s  {says}".format(**told), flush=True)
        log = FOLDER / f"{stage.name}.log"
        if told["result"] == "FAILED" and log.exists():
            lines = log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
            print("\n".join(f"    {line}" for line in lines))
    return results


def tables() -> list[dict[str, Any]]:
    """The tables that stages have measured, each with its machine."""
    found = list[dict[str, Any]]()
    for path in sorted(FOLDER.glob("*.json")):
        measured = json.loads(path.read_text())
        found += [{**table, "machine": measured["machine"]} for table in measured["tables"]]
    return found


def sentence(about: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """What this run says of GPUs."""
    if about["device"]:
        return f"On {about['device']}, torch {about['torch']}, commit {about['commit']}."
    skipped = [told["stage"] for told in results if told["says"] == "no GPU"]
    return (
        "No GPU was there: kernels ran on the emulated one, calls on the stand-in for a driver. "
        f"Not run: {', '.join(skipped)}."
    )


def main() -> int:
    """Runs, prints, writes; the process' status."""
    options = argparse.ArgumentParser(prog="python -m tools.gpu_check", description=__doc__)
    options.add_argument("--only", help="these stages, e.g. build,tests")
    options.add_argument("--docs", action="store_true", help="put the figures into docs/gpu.md")
    chosen = options.parse_args()
    stages = [s for s in STAGES if not chosen.only or s.name in chosen.only.split(",")]
    if chosen.only and len(stages) != len(chosen.only.split(",")):
        options.error(f"--only: the stages are {', '.join(stage.name for stage in STAGES)}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    about = facts()
    if about["nvidia_smi"] and not about["device"]:
        print(f"There is a GPU ({about['nvidia_smi']}), and torch {about['torch']} sees none.")
        return 1
    if chosen.docs and not about["device"]:
        print("--docs: no GPU is there, and the figures are of one")
        return 1
    results = run_all(stages, bool(about["device"]))
    found = {**about, "stages": results, "tables": tables()}
    (FOLDER / "run.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{sentence(about, results)}")
    failed = [told["stage"] for told in results if told["result"] == "FAILED"]
    print(f"Failed: {', '.join(failed)}." if failed else "Nothing failed.")
    if chosen.docs and not failed:
        from . import gpu_docs

        shutil.copyfile(FOLDER / "run.json", DOCS / "gpu.json")
        gpu_docs.write(DOCS / "gpu.md", found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
