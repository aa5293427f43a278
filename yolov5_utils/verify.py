"""YOLOV5_UTILS_VERIFY=1: every hot call also runs its reference and raises where they differ.

One small check per hot path. A check works on copies and leaves the call as it was: tensors,
version counters, random streams. Only what C did is checked: what torch did is the reference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from . import _native, bits, probe, reference, switches

ON = switches.VERIFY.on()

_PLAIN = (Tensor, nn.Parameter)
# Wall clocks are set now and then; more than this between two readings is not taken for a fault.
_CLOCK_STEP_S = 1e-3


class VerifyError(AssertionError):
    """A result of C differs from the reference's. The tensors hold what C has written.

    Not a RuntimeError: training loops catch those and go on.
    """


def prune(
    model: nn.Module,
    weights: Sequence[Tensor],
    pruned: Sequence[Tensor],
    counts: Sequence[int],
    exact: bool,
) -> None:
    """Check pruned copies of the model's weights, counts[i] of each zeroed.

    `exact`: also which of several equally small ones are.
    """
    if ON:
        names = {id(tensor): name for name, tensor in _tensors_of(model)}
        with torch.no_grad():
            for weight, found, count in zip(weights, pruned, counts, strict=True):
                _compare_pruned(names[id(weight)], weight.detach(), found, count, exact)


def fuse(conv: nn.Module, bn: nn.Module, fused: nn.Module) -> None:
    """Check the convolution that C made of `conv` and `bn`.

    The reference draws initial weights, so it runs on a copy of the random stream.
    """
    if ON:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            expected = reference.fuse_conv_and_bn(conv, bn)  # type: ignore[arg-type]
            for name, value in expected.state_dict().items():
                _compare("fuse", name, fused.state_dict()[name], value)


def clock(function: Callable[[], float]) -> Callable[[], float]:
    """`function`, which reads the clock, with a check that it agrees with the reference's."""

    def time_synchronized() -> float:
        began, before = time.perf_counter(), time.time()
        now = function()
        after = reference.time_synchronized()
        stepped = abs(after - before - (time.perf_counter() - began)) > _CLOCK_STEP_S
        if not stepped and not before <= now <= after:
            raise VerifyError(
                f"time_synchronized: C gave {now!r} ({now.hex()}), the reference {before!r} "
                f"({before.hex()}) before and {after!r} ({after.hex()}) after it"
            )
        return now

    time_synchronized.__doc__ = function.__doc__
    return time_synchronized


def torch_must_run() -> bool:
    """True where C refuses every call, and a copy would be traced, compiled or intercepted."""
    if probe.is_compiling():
        return True
    return any(is_active() for is_active, _ in _native.TORCH.guards)


def ema(
    average: nn.Module, source: nn.Module, decay: float, _: object = None
) -> Callable[[object], None] | None:
    """The values before the call; afterwards the reference averages them."""
    if not isinstance(average, nn.Module) or not isinstance(source, nn.Module):
        return None
    copies = _copies([*_tensors_of(average), *_tensors_of(source)])

    def compare(_: object) -> None:
        found = average.state_dict(keep_vars=True)
        expected, new = (
            _State({key: copies.get(id(value), value) for key, value in state.items()})
            for state in (found, source.state_dict(keep_vars=True))
        )
        for key, value in found.items():
            if value.dtype.is_floating_point and id(value) not in copies:
                raise VerifyError(f"ema: {key}: C updated a tensor that cannot be copied")
        reference.ema_update(expected, new, decay)  # type: ignore[arg-type]
        for key, value in found.items():
            if id(value) in copies:
                _compare("ema", key, value, expected.state_dict()[key])

    return compare


class _State:
    """A stand-in for a module, of which the reference wants the state_dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Tensor]:
        return self._state


def _tensors_of(model: nn.Module) -> list[tuple[str, Tensor | None]]:
    """Parameters and buffers of a module tree by name, without calling what users may override."""
    found: list[tuple[str, Tensor | None]] = []
    seen: set[int] = set()
    stack = [("", model)]
    while stack:
        prefix, module = stack.pop()
        if id(module) not in seen:
            seen.add(id(module))
            for kind in ("_parameters", "_buffers"):
                tensors = module.__dict__.get(kind, {})
                found += [(prefix + name, tensor) for name, tensor in tensors.items()]
            for name, child in module.__dict__.get("_modules", {}).items():
                if isinstance(child, nn.Module):
                    stack.append((f"{prefix}{name}.", child))
    return found


def _copies(tensors: Iterable[tuple[str, Tensor | None]]) -> dict[int, Tensor]:
    """Copies by the id of their originals, sharing memory among them as the originals do.

    Without those that cannot be copied: C refuses them, or leaves them alone.
    """
    copies: dict[int, Tensor] = {}
    memo: dict[int, Any] = {}
    for _, tensor in tensors:
        if tensor is None or type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
            continue
        if tensor.is_quantized or tensor.is_complex():
            continue
        try:
            storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else None
            if storage is None or tensor.numel() == 0 or storage.nbytes() > 0:
                copies[id(tensor)] = deepcopy(tensor.detach(), memo)
        except (RuntimeError, NotImplementedError):
            pass
    return copies


def sparsity(model: nn.Module, _: int = 0) -> Callable[[Sequence[Any]], None]:
    def compare(counts: Sequence[Any]) -> None:
        parameters = list(model.parameters())
        zeros = sum(int((parameter == 0).sum()) for parameter in parameters)
        elements = sum(parameter.numel() for parameter in parameters)
        _compare_number("sparsity", "parameters", counts[0], len(parameters))
        _compare_number("sparsity", "elements", counts[1], elements)
        if len(counts) == 3:  # on a GPU, where torch divides
            counted = int(counts[2].view(torch.int64).sum())
            _compare_number("sparsity", "zeros", counted, zeros)
            return
        _compare_number("sparsity", "zeros", counts[2], zeros)
        shares = {torch.float32: counts[3], torch.float64: counts[4]}
        dtype = torch.get_default_dtype()
        if parameters and elements and dtype in shares:
            expected = float(reference.sparsity(model))
            _compare_number("sparsity", f"share in {dtype}", shares[dtype], expected)

    return compare


def scale_img(
    img: Tensor, ratio: float, same_shape: bool, gs: int
) -> Callable[[tuple[Tensor, Any]], None]:
    def compare(result: tuple[Tensor, Any]) -> None:
        found, _ = result
        expected = reference.scale_img(img, ratio, same_shape, gs)
        _compare("scale_img", "result", found, expected)
        strides = zip(found.shape, found.stride(), expected.stride(), strict=True)
        if any(size > 1 and ours != theirs for size, ours, theirs in strides):
            raise VerifyError(
                f"scale_img: result: C gave strides {found.stride()}, "
                f"the reference {expected.stride()}"
            )

    return compare


def _compare_pruned(name: str, weight: Tensor, found: Tensor, count: int, exact: bool) -> None:
    """Compare with torch's pruning; unless `exact`, any choice among equally small ones will do."""
    layer = nn.Module()
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    from torch.nn.utils import prune as torch_prune

    torch_prune.l1_unstructured(layer, "weight", amount=count)
    torch_prune.remove(layer, "weight")
    expected = layer.weight.detach()
    if exact or not 0 < count < weight.numel():
        _compare("prune", name, found, expected)
        return
    magnitude = weight.abs()
    threshold = magnitude.flatten().sort().values[count - 1]
    equals = magnitude == threshold
    kept, zeroed = weight * 1, weight * 0
    untied = torch.where(equals, kept, expected)
    _compare("prune", name, torch.where(equals, kept, found), untied)
    gone = bits.differ(found, kept) & equals
    # Of the equals, each is kept or zeroed, and as many are zeroed as in the original.
    _compare("prune", name, torch.where(gone, found, kept), torch.where(gone, zeroed, kept))
    want_gone = int((bits.differ(expected, kept) & equals).sum())
    _compare_number("prune", f"{name}: zeroed at the threshold", int(gone.sum()), want_gone)


def _compare(path: str, name: str, found: Tensor, expected: Tensor) -> None:
    """VerifyError that names the first element that differs, in both values and their bits."""
    found, expected = found.detach(), expected.detach()
    for what in ("dtype", "device", "shape"):
        ours, theirs = getattr(found, what), getattr(expected, what)
        if ours != theirs:
            raise VerifyError(f"{path}: {name}: C gave {what} {ours}, the reference {theirs}")
    different = bits.differ(found, expected)
    count = int(different.sum())
    if count:
        index = tuple(different.nonzero()[0].tolist())
        raise VerifyError(
            f"{path}: {name}{list(index)}: C gave {_written(found, index)}, the reference "
            f"{_written(expected, index)}; {count} of {found.numel()} elements differ. {_setting()}"
        )


def _written(tensor: Tensor, index: tuple[int, ...]) -> str:
    """One element and its bits in hexadecimal."""
    digits = 2 * tensor.element_size()
    pattern = int(bits.of(tensor)[index]) & (1 << 4 * digits) - 1
    return f"{tensor[index].item()!r} (0x{pattern:0{digits}x}, {tensor.dtype})"


def _compare_number(path: str, name: str, found: float, expected: float) -> None:
    if found != expected:
        shown = [f"{value!r} ({float(value).hex()})" for value in (found, expected)]
        raise VerifyError(
            f"{path}: {name}: C gave {shown[0]}, the reference {shown[1]}. {_setting()}"
        )


def _setting() -> str:
    """What a report of a difference needs to say."""
    level, threads = _native._C.info()["level"], torch.get_num_threads()
    return f"torch {torch.__version__}, level {level}, {threads} threads"
