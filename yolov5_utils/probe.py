"""What torch is asked that not every release knows: its private and its late names, in one place.

Which release has what, and what is done without it: docs/torch-releases.md. Each release refuses in
its own way, so any exception is a no, and none breaks the import. Must not know the C extension.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch

Guard = tuple[Callable[[], Any], str]

# Functions that answer with something true where torch itself has to run, and why it has to.
_GUARDS = {
    "_C._len_torch_function_stack": "a torch function mode is active",
    "_C._len_torch_dispatch_stack": "a torch dispatch mode is active",
    "_C._get_tracing_state": "inside torch.jit.trace",
    "_C._functorch.peek_interpreter_stack": "inside a torch.func transform",
}


def answer(function: Callable[..., Any], *args: Any, otherwise: Any = None, **named: Any) -> Any:
    """What `function` answers, or `otherwise` where it raises anything but an interrupt.

    For questions and banners: in a hot path it would also swallow what a signal handler raises.
    """
    try:
        return function(*args, **named)
    except Exception:
        return otherwise


def find(name: str) -> Any:
    """What torch has by a dotted name, "_C._increment_version", or None."""
    return answer(functools.reduce, getattr, name.split("."), torch)


def takes(function: Callable[..., Any] | None, *args: Any) -> bool:
    """True where torch has the function and can be asked like that."""
    refused = object()
    return function is not None and answer(function, *args, otherwise=refused) is not refused


def release() -> tuple[int, int]:
    """torch's major and minor number; (0, 0), as if older than all, where it does not say."""
    numbers = answer(lambda: [int(part) for part in torch.__version__.split(".")[:2]])
    return (numbers[0], numbers[1]) if numbers is not None and len(numbers) == 2 else (0, 0)


def says_not_implemented(error: RuntimeError) -> bool:
    """Whether torch says that it lacks an operation in float16, as it may before 2.1."""
    return release() < (2, 1) and "not implemented" in str(error)


def _yes() -> bool:
    return True


def _no() -> bool:
    return False


def _guard(name: str) -> Callable[[], Any]:
    """The function that tells of a mode; where this torch has it but does not tell, a yes."""
    function = find(name)
    return _no if function is None else function if takes(function) else _yes


_ACTIVE = {name: _guard(name) for name in _GUARDS}
GUARDS: tuple[Guard, ...] = tuple(
    (is_active, f"no telling whether {reason}" if is_active is _yes else reason)
    for is_active, reason in zip(_ACTIVE.values(), _GUARDS.values(), strict=True)
    if is_active is not _no
)


# How many function modes are active; 0 where torch does not tell.
function_modes: Callable[[], int] = find("_C._len_torch_function_stack") or int


def is_watched() -> bool:
    """True inside modes, traces and transforms, which are to see the original's operations."""
    return any(is_active() for is_active, _ in GUARDS)


def in_transform() -> bool:
    """True inside a transform of torch.func."""
    return bool(_ACTIVE["_C._functorch.peek_interpreter_stack"]())


# True while torch.compile reads the code that asks, instead of running it.
is_compiling: Callable[[], bool] = next(
    (
        asked
        for asked in map(find, ("compiler.is_compiling", "_utils.is_compiling"))
        if takes(asked)
    ),
    _no,
)


_FORWARD_MODE = find("autograd.forward_ad")


def in_forward_mode() -> bool:
    """True inside forward-mode differentiation."""
    return getattr(_FORWARD_MODE, "_current_level", -1) >= 0


def autocast(device: str) -> Callable[[], bool]:
    """A function that says whether autocast changes operations on "cpu" or "cuda" tensors."""
    if takes(torch.is_autocast_enabled, device):  # torch 2.4 and later
        return functools.partial(torch.is_autocast_enabled, device)
    return torch.is_autocast_enabled if device == "cuda" else find("is_autocast_cpu_enabled") or _no


# By these cuBLAS multiplies otherwise than torch asks for, where they are neither empty nor 0.
_CUBLAS_SWITCHES = (
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATE_DOUBLE_PRECISION",
)


def lower_precision(backend: str) -> Callable[[], bool]:
    """A function that says whether matrix products may use a shorter type inside.

    `backend` is "mkldnn" for the CPU, or "cuda".
    """
    by_torch = _lower_precision_by_torch(backend)
    if backend != "cuda":
        return by_torch
    get = os.environ.get
    return lambda: by_torch() or any(get(name, "0") not in ("", "0") for name in _CUBLAS_SWITCHES)


def _lower_precision_by_torch(backend: str) -> Callable[[], bool]:
    getter = find("_C._get_fp32_precision_getter")
    if takes(getter, backend, "matmul"):  # torch 2.9 and later
        return lambda: getter(backend, "matmul") not in ("none", "ieee")
    if backend == "cuda":
        return lambda: bool(torch.backends.cuda.matmul.allow_tf32)
    legacy = find("get_float32_matmul_precision")
    return (lambda: legacy() != "highest") if takes(legacy) else _no
