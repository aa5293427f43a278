"""Processes that form a gloo group and run cases together, one after the other.

Importing torch takes seconds, so one process does it and forks the ranks, and a group lives as long
as its cases pass. Nothing here can hang: each case has a limit, after which the parent kills the
group, and each process ends by itself when it takes much longer or its parent is gone.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CASE_LIMIT_S = 120  # of one case on all ranks, with the import, on a machine that is busy otherwise
GROUP_LIMIT_S = 60  # of a collective: an error then, and no wait
CASES = ("sharded_cases", "checkpoint_cases", "training_cases", "zero_first_cases")


class Ranks:
    """A group of so many processes."""

    def __init__(self, world: int, folder: Path) -> None:
        self.world = world
        self.is_whole = True  # False after a failed case: the ranks may be at different places
        orders, answers = ([os.pipe() for _ in range(world)] for _ in range(2))
        theirs = [(orders[rank][0], answers[rank][1]) for rank in range(world)]
        self._said = folder / "stderr"
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder / "store"), json.dumps(theirs)],
                pass_fds=[end for ends in theirs for end in ends],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=folder,
                env=environment(),
                start_new_session=True,
            )
        for end in (end for ends in theirs for end in ends):
            os.close(end)
        self._orders = [os.fdopen(write, "w") for _, write in orders]
        self._answers = [os.fdopen(read) for read, _ in answers]

    def run(self, case: str, *arguments: Any) -> list[Any]:
        """What the function `case` ("module.name" of this folder) returns on each rank.

        AssertionError with every rank's traceback where one raises, or is not done in time.
        """
        order = json.dumps([case, arguments])
        answers: list[Any] = [None] * self.world

        def ask(rank: int) -> None:
            try:
                print(order, file=self._orders[rank], flush=True)
                answers[rank] = json.loads(self._answers[rank].readline())
            except (OSError, ValueError) as error:  # it died
                answers[rank] = {"error": f"{error!r}\n{self._said.read_text()[-3000:]}"}

        threads = [threading.Thread(target=ask, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CASE_LIMIT_S)
        if any(thread.is_alive() for thread in threads):
            self._kill()
            for thread in threads:
                thread.join()
        problems = [
            f"rank {rank}: {answer['error']}"
            for rank, answer in enumerate(answers)
            if "error" in answer
        ]
        self.is_whole = not problems
        assert not problems, "\n".join(problems)
        return [answer["value"] for answer in answers]

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End all processes."""
        self._kill()
        for file in [*self._orders, *self._answers]:
            file.close()


def environment() -> dict[str, str]:
    """Of processes that talk to each other on this machine."""
    return {
        **os.environ,
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }


def main() -> None:
    """Forks the ranks, and is there until the last one has ended."""
    store, ends = sys.argv[1], json.loads(sys.argv[2])
    faulthandler.dump_traceback_later(CASE_LIMIT_S, exit=True)
    for name in CASES:
        importlib.import_module(f"{__package__}.{name}")
    faulthandler.cancel_dump_traceback_later()
    for rank in range(len(ends)):
        if os.fork() == 0:
            for other in (end for i, pair in enumerate(ends) for end in pair if i != rank):
                os.close(other)
            obey(store, rank, len(ends), *ends[rank])
            os._exit(0)
    for end in (end for pair in ends for end in pair):
        os.close(end)
    for _ in ends:
        os.wait()


def obey(store: str, rank: int, world: int, orders: int, answers: int) -> None:
    """One rank: cases, a line each, until the parent is gone."""
    faulthandler.dump_traceback_later(CASE_LIMIT_S, exit=True)
    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=GROUP_LIMIT_S),
    )
    with os.fdopen(orders) as read, os.fdopen(answers, "w") as write:
        for line in read:
            faulthandler.dump_traceback_later(CASE_LIMIT_S, exit=True)
            case, arguments = json.loads(line)
            module, _, name = case.rpartition(".")
            try:
                function = getattr(importlib.import_module(f"{__package__}.{module}"), name)
                answer = {"value": function(*arguments)}
            except BaseException:  # of any kind, pytest's are no Exception: the test shows it
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), file=write, flush=True)
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
