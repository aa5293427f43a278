"""Every release trains, validates, detects and prunes the same with the overlay, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from environment import TORCH, Environment, run
from releases import CLIENTS
from runs import ROUTE_OF, Pair

IN_USE = {  # what a job cannot do without: the callable, and the hot path behind it
    "train": ("ModelEMA.update", "ema"),
    "validate": ("fuse_conv_and_bn", "fuse"),
    "detect": ("fuse_conv_and_bn", "fuse"),
    "detect, augmented": ("scale_img", "scale_img"),
    "prune": ("prune", "prune"),
}
NOT_YET = "not in C in this version"
every_client = pytest.mark.parametrize("name", CLIENTS)
every_job = pytest.mark.parametrize(
    ("name", "job"), [(name, job) for name, client in CLIENTS.items() for job in client.jobs]
)


def test_environment_has_the_pinned_torch(environment: Environment) -> None:
    freeze = run([environment.python, "-m", "pip", "list", "--format", "freeze"])
    versions = [line.split("+")[0] for line in freeze.splitlines()]
    assert set(TORCH) <= set(versions)


@every_job
def test_job_is_equal_to_the_bit(
    pairs: Callable[[str], Pair], report: Callable[..., None], name: str, job: str
) -> None:
    outcome = pairs(name).job(job)
    report(name, ROUTE_OF[name], job, outcome)
    assert outcome.differences() == []
    assert outcome.stock.end["package"]["modules"] == []


@every_job
def test_job_used_c(pairs: Callable[[str], Pair], name: str, job: str) -> None:
    """Every call that the job makes of what it needs ran in C, none as torch operations."""
    package = pairs(name).job(job).ours.end["package"]
    needed, operation = IN_USE[job]
    calls = package["calls"][operation]
    if needed in record_of(package, CLIENTS[name].torch_utils)["replaced"]:
        assert calls["C"] > 0
        assert calls["torch"] == 0, package["reasons"][operation]
    else:
        assert calls["C"] == 0


@every_client
def test_overlay_replaced_what_it_should(pairs: Callable[[str], Pair], name: str) -> None:
    client = CLIENTS[name]
    package = pairs(name).job("train").ours.end["package"]
    record = record_of(package, client.torch_utils)
    missing = [path for path, reason in record["left"].items() if reason == NOT_YET]
    assert sorted([*record["replaced"], *missing]) == sorted(client.hot), record
    assert package["file"].startswith(str(pairs(name).ours.environment.folder))


def record_of(package: dict, module: str) -> dict:
    [record] = [one for one in package["overlay"] if one["module"] == module]
    return record


@every_client
def test_it_is_said_once(pairs: Callable[[str], Pair], name: str) -> None:
    output = pairs(name).job("train").ours.output
    lines = [line for line in output.splitlines() if "yolov5_utils" in line]
    wanted = f"of {CLIENTS[name].torch_utils} replaced"
    assert len([line for line in lines if wanted in line]) == 1, lines


@every_client
def test_training_saved_what_it_should(pairs: Callable[[str], Pair], name: str) -> None:
    """So that the comparison has something to compare."""
    client = CLIENTS[name]
    outcome = pairs(name).job("train")
    averages = [save["averages"][0] for save in outcome.stock.saves if save["averages"]]
    assert len(averages) >= 2
    assert averages[-1]["updates"] >= (client.updates or 1)  # ultralytics: one for 64 pictures
    assert {entry[0] for entry in averages[0]["state"].values()} >= {"torch.float32"}
    checkpoints = [file for file in outcome.stock_files.values() if isinstance(file, dict)]
    assert len(checkpoints) >= 2
    for checkpoint in checkpoints:
        assert sum(entry[1].startswith("torch.float") for entry in checkpoint["entries"]) > 100
    assert len(outcome.stock_files["results.csv"]) == 3  # a head line, two epochs
    if client.updates:
        assert outcome.ours.end["package"]["calls"]["ema"] == {
            "C": client.updates,
            "CUDA": 0,
            "torch": 0,
        }


@every_client
@pytest.mark.parametrize("job", ("validate", "detect", "detect, augmented"))
def test_labels_were_saved(pairs: Callable[[str], Pair], name: str, job: str) -> None:
    outcome = pairs(name).job(job)
    labels = [file for file in outcome.stock_files if file.startswith("labels/")]
    assert len(labels) >= 8, sorted(outcome.stock_files)


@every_client
def test_checkpoints_hold_nothing_of_the_package(pairs: Callable[[str], Pair], name: str) -> None:
    pair = pairs(name)
    pair.job("train")
    files = sorted((pair.ours.folder / "runs" / "train" / "weights").glob("*.pt"))
    assert len(files) >= 2
    for file in files:
        assert b"yolov5_utils" not in file.read_bytes(), file.name
