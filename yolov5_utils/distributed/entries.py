"""The entries of a model's state_dict, read from its modules: several times as quick as asking it.

Between two training steps the walk of `state_dict` would take longer than averaging a small model.
Must not know what the entries are for.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from torch import Tensor, nn

# What a module of the usual kind has from nn.Module.
_METHODS = attrgetter("state_dict", "_save_to_state_dict", "get_extra_state", "__getattribute__")
_OWN = _METHODS(nn.Module)


def read(model: nn.Module) -> dict[str, Tensor] | None:
    """model.state_dict(keep_vars=True) as it is without hooks of FSDP2, or None.

    Those hooks put parameters back that FSDP2 has gathered, which are no DTensors then: whoever
    finds none here where there should be some has to ask the model. None where other hooks or
    methods make its state_dict.
    """
    found: dict[str, Any] = {}
    usual: set[type] = set()
    left: list[tuple[str, nn.Module]] = [("", model)]
    while left:
        prefix, module = left.pop()
        kind, members = type(module), module.__dict__
        if kind not in usual:
            if _METHODS(kind) != _OWN:
                return None
            usual.add(kind)
        hooks = members["_state_dict_pre_hooks"]
        if members["_state_dict_hooks"] or (hooks and not _are_of_fsdp2(hooks)):
            return None
        if "state_dict" in members or "_save_to_state_dict" in members:
            return None
        if members["_parameters"]:
            for name, parameter in members["_parameters"].items():
                if parameter is not None:
                    found[prefix + name] = parameter
        if members["_buffers"]:
            hidden = members["_non_persistent_buffers_set"]
            for name, buffer in members["_buffers"].items():
                if buffer is not None and name not in hidden:
                    found[prefix + name] = buffer
        for name, child in members["_modules"].items():
            if child is not None:
                left.append((f"{prefix}{name}.", child))
    return found


def _are_of_fsdp2(hooks: dict[int, Any]) -> bool:
    return all(hook.__module__.startswith("torch.distributed.fsdp.") for hook in hooks.values())
