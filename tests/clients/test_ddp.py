"""Two gloo ranks under torchrun give the bits of the same ranks without the overlay."""

from __future__ import annotations

from collections.abc import Callable

from compare import HERE
from runs import OURS, Pair

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT = [str(HERE / "ddp_train.py"), "--name", "ddp"]


def test_two_ranks(newest: Pair, report: Callable[..., None]) -> None:
    outcome = newest.both([*TORCHRUN, *SCRIPT], [*TORCHRUN, *OURS, *SCRIPT], "ddp")
    report(newest.client.name, "torchrun -m yolov5_utils SCRIPT", "train, two gloo ranks", outcome)
    assert outcome.differences() == []
    assert outcome.stock.saves[0]["averages"][0]["updates"] == 3
    package = outcome.ours.end["package"]
    assert package["calls"]["ema"] == {"C": 3, "CUDA": 0, "torch": 0}
    lines = [line for line in outcome.ours.output.splitlines() if "yolov5_utils" in line]
    assert len([line for line in lines if "of yolov5.utils.torch_utils replaced" in line]) == 1
