"""PyPI's yolov5 7.0.14, not one line edited, trains and detects the same through this package."""

from __future__ import annotations

from client import OURS, TORCH, Environment, Job, Training, differences, run

UPDATES = 8  # 2 epochs of 32 pictures in batches of 8, an update after each


def full_precision(training: Training) -> list[dict]:
    return [save for save in training.saves if save["averages"]]


def test_environment_has_the_pinned_torch(environment: Environment) -> None:
    freeze = run([environment.python, "-m", "pip", "list", "--format", "freeze"])
    versions = [line.split("+")[0] for line in freeze.splitlines()]
    assert set(TORCH) <= set(versions)


def test_stock_run_knows_nothing_of_the_package(stock: Training) -> None:
    assert stock.end["modules"] == []


def test_our_run_updated_in_c_every_time(ours: Training, environment: Environment) -> None:
    [record] = ours.end["overlay"]
    assert record["replaced"] == ["ModelEMA.update", "sparsity"], record
    assert ours.end["calls"] == {"C": UPDATES, "CUDA": 0, "torch": 0}
    assert ours.end["file"].startswith(str(environment.folder))
    assert ours.output.count("ModelEMA.update, sparsity of yolov5.utils.torch_utils replaced") == 1


def test_average_is_equal_at_every_save(ours: Training, stock: Training) -> None:
    saves = full_precision(stock)
    assert [save["averages"][0]["updates"] for save in saves][-1] == UPDATES
    assert {entry[0] for entry in saves[0]["averages"][0]["state"].values()} >= {"torch.float32"}
    assert differences(ours.saves, stock.saves) == []


def test_checkpoints_are_equal(job: Job, ours: Training, stock: Training) -> None:
    theirs = job.describe(stock)
    assert set(theirs) == {"last.pt", "best.pt", "epoch0.pt", "epoch1.pt"}
    for name, entries in theirs.items():
        tensors = [entry for entry in entries if entry[1].startswith("torch.float")]
        assert len(tensors) > 100, name
    assert differences(job.describe(ours), theirs) == []


def test_results_are_equal(ours: Training, stock: Training) -> None:
    assert len(stock.results.splitlines()) == 3  # a head line, two epochs
    assert ours.results == stock.results


def test_checkpoints_hold_nothing_of_the_package(ours: Training) -> None:
    for file in (ours.folder / "runs" / "train" / "weights").glob("*.pt"):
        assert b"yolov5_utils" not in file.read_bytes(), file.name


def test_detections_are_equal(job: Job, ours: Training, stock: Training) -> None:
    theirs = job.detect(stock)
    mine = job.detect(ours, *OURS)
    labels = (theirs / "labels" / "bus.txt").read_text()
    assert len(labels.splitlines()) >= 10
    assert (mine / "labels" / "bus.txt").read_text() == labels
    assert (mine / "bus.jpg").read_bytes() == (theirs / "bus.jpg").read_bytes()


def test_comparison_notices_a_lerp(canary: Training, stock: Training) -> None:
    assert len(full_precision(canary)) == len(full_precision(stock))
    assert differences(canary.saves, stock.saves) != []
