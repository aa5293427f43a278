"""A place where processes wait for each other, tell each other something, and miss who is absent.

It is in the store that torch.distributed keeps for the processes to find each other: no collective,
so none can hang, no GPU, and any subset of the ranks. Must not know what is talked about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist


def meet(
    topic: str, ranks: Sequence[int], said: str = "", timeout_s: float | None = None
) -> dict[int, str]:
    """Wait until all `ranks` are here: {} if all said the same, else what each of them said.

    Each of them must call this, and equally often per topic. TimeoutError after `timeout_s` (the
    process group's own time-out where it is None) names those that have not come. Costs a few
    messages to the store per rank, however many ranks there are.
    """
    store, me = dist.distributed_c10d._get_default_store(), dist.get_rank()
    place = f"yolov5_utils/{topic}/{_digest(str(list(ranks)))}"
    visits = f"{place}/{me}"
    place += f"/{store.add(visits, 1)}"
    counted = [visits, f"{place}/{_digest(said)}", f"{place}/count"]
    store.set(f"{place}/{me}", "here")
    if [store.add(key, 1) for key in counted[1:]][-1] == len(ranks):
        store.set(f"{place}/complete", "yes")
    timeout = store.timeout if timeout_s is None else timedelta(seconds=timeout_s)
    try:
        store.wait([f"{place}/complete"], timeout)
    except RuntimeError as error:  # torch's DistStoreError is one
        absent = [rank for rank in ranks if not store.check([f"{place}/{rank}"])]
        for key in counted:  # as if this rank had not come: it may try again
            store.add(key, -1)
        store.delete_key(f"{place}/{me}")
        raise TimeoutError(
            f"{topic}: rank {me} waited {timeout.total_seconds():g} s, and of {len(ranks)} ranks "
            f"these have not come: {', '.join(map(str, absent))}"
        ) from error
    if store.add(counted[1], 0) == len(ranks):
        return {}
    store.set(f"{place}/{me}/said", said)
    return {rank: store.get(f"{place}/{rank}/said").decode() for rank in ranks}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
