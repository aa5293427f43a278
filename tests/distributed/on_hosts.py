"""A program for torchrun, in test_torchrun.py: one process on each of two hosts, or a failing one.

torchrun … on_hosts.py FOLDER average | dies
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from yolov5_utils import ModelEMA, ShardedEMA
from yolov5_utils.torch_utils import torch_distributed_zero_first

folder, job = Path(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
rank = dist.get_rank()
with torch_distributed_zero_first(int(os.environ["LOCAL_RANK"]), timeout_s=20):
    if job == "dies" and rank == 0:
        os._exit(3)
torch.manual_seed(0)
model, alone = nn.Linear(7, 5), nn.Linear(7, 5)
alone.load_state_dict(model.state_dict())
sharded, expected = ShardedEMA(fully_shard(model)), ModelEMA(alone)
model(torch.ones(7)).sum().backward()
alone(torch.ones(7)).sum().backward()
for trained, average in ((model, sharded), (alone, expected)):
    torch.optim.SGD(trained.parameters(), 0.5).step()
    average.update(trained)
whole = sharded.full_state_dict()
if rank == 0:
    assert all(torch.equal(whole[name], v) for name, v in expected.ema.state_dict().items())
Path(folder, f"rank {rank}").write_text(f"{len(whole)} entries, {os.environ['LOCAL_RANK']}")
dist.destroy_process_group()
