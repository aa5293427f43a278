"""What two ranks trained sharded, the unmodified detect.py of YOLOv5 loads and runs."""

from __future__ import annotations

from compare import HERE
from runs import Pair, target

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_best_pt_of_a_sharded_run(newest: Pair) -> None:
    desk = newest.stock
    desk.run([*TORCHRUN, HERE / "sharded_train.py", "--name", "sharded"])
    what, arguments = newest.client.jobs["detect"]
    replaced = {"runs/train/weights/live.pt": "runs/sharded/best.pt", "detect": "from-sharded"}
    found = desk.run([*target(desk, what), *[replaced.get(word, word) for word in arguments]])
    assert "Results saved to" in found.output
    assert found.end["package"]["modules"] == []  # nothing of this package is in there
