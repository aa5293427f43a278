"""What the robustness tests share: one way to run the original loop and ours on twins that were
built alike, and to compare bits, exceptions and what an
exception left behind; and a child process for what might crash."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from yolov5_utils.ops.ema import update_modules

from ..support import INTEGER_VIEW, original

Pair = tuple[nn.Module, nn.Module]


class Outcome(NamedTuple):
    """How a call ended: the exception (type, text) or None, and the bits of both modules after."""

    error: tuple[type[BaseException], str] | None
    average: dict[str, Any]
    source: dict[str, Any]


def bits(tensor: Tensor) -> Any:
    """A tensor as something that == compares bit by bit; NaNs count as equal."""
    with torch.no_grad():
        tensor = tensor.detach()
        if tensor.is_nested:
            return [bits(part) for part in tensor.unbind()]
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        if tensor.is_meta or tensor.is_quantized:
            return str(tensor)
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
        plain = tensor.as_subclass(Tensor).resolve_neg().contiguous().clone()
        if plain.dtype.is_floating_point and plain.element_size() > 1:
            plain[plain.isnan()] = float("nan")
        data = plain.reshape(-1).view(INTEGER_VIEW[plain.element_size()]).tolist()
        return (str(plain.dtype), tuple(plain.shape), data)


def entries(module: nn.Module) -> dict[str, Any]:
    """Every tensor of the tree, by place, read past all properties and overridden methods."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def look(inner: nn.Module, place: str) -> None:
        if id(inner) in seen:
            return
        seen.add(id(inner))
        for kind, members in object.__getattribute__(inner, "__dict__").items():
            for name, value in dict.items(members) if isinstance(members, dict) else ():
                if isinstance(value, nn.Module):
                    look(value, f"{place}/{name}")
                elif isinstance(value, Tensor) and not is_lazy(value):
                    found[f"{place}|{kind}|{name}"] = bits(value)

    look(module, "")
    return found


def state(module: nn.Module) -> list[Any]:
    """The bits of its state dict, one after the other."""
    return [bits(tensor) for tensor in module.state_dict().values()]


def outcome(function: Callable[..., Any], build: Callable[[], Pair], decay: Any) -> Outcome:
    """Runs the function on a freshly built pair."""
    average, source = build()
    error = None
    try:
        function(average, source, decay)
    except Exception as raised:
        error = (type(raised), str(raised))
    return Outcome(error, entries(average), entries(source))


def assert_like_original(
    build: Callable[[], Pair], decay: Any = 0.75, ours: Callable[..., Any] = update_modules
) -> Outcome:
    """Ours ends as the original does: same bits, or the same type of exception (and the same key)
    with nothing changed."""
    expected = outcome(original, build, decay)
    actual = outcome(ours, build, decay)
    if expected.error is None:
        assert actual == expected
    else:
        assert actual.error is not None
        assert actual.error[0] is expected.error[0]
        assert actual.error[0] is not KeyError or actual.error == expected.error
        average, source = build()
        assert (actual.average, actual.source) == (entries(average), entries(source))
    return actual


def in_child(function: Callable[[], object], seconds: float = 30) -> None:
    """Runs the function in a forked child and fails where the child crashes, hangs or raises."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later: threads and fork
        child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + seconds
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail(f"the child did not end within {seconds} s")
    code = os.waitstatus_to_exitcode(status)
    assert code >= 0, f"the child died of {signal.Signals(-code).name}"
    assert code == 0, "the child raised"
