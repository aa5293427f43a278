"""Training by several processes, on one machine or many. torch.distributed is the engine.

Must not know the C extension. Imports on every torch, also on one without torch.distributed.
"""

from __future__ import annotations

from .launched import launched_as, smart_DDP
from .sharded_ema import ShardedEMA
from .zero_first import torch_distributed_zero_first

__all__ = ["ShardedEMA", "launched_as", "smart_DDP", "torch_distributed_zero_first"]
