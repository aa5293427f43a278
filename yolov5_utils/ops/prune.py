"""prune: zero the smallest weights of every convolution."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Iterator
from itertools import repeat
from operator import delitem, itemgetter, setitem
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .. import _native, probe, reference, verify, whole
from ..operation import Operation, is_plain_number, small_layers
from ..originals import Originals
from .sparsity import sparsity

TIES = ("position", "torch")

# Bytes of new weights that are filled by one call of C and then take the place of the old ones,
# whose memory the next call's can have: small enough for a private L2 cache.
_BATCH_BYTES = 1 << 20
# The same where several threads share a call: it has to be worth starting them.
_SHARED_BATCH_BYTES = 16 << 20

# How often an error is waited out, which a signal handler may have raised, once layers are pruned.
_TRIES = 20

# Weights of the largest layer on which torch's choice is probed: so few stay on one thread.
_PROBED = 20_000

# What torch's pruning calls on a module, and the names it uses there meanwhile.
_METHODS = (
    *("__setattr__", "__getattr__", "__delattr__"),
    *("register_parameter", "register_buffer", "register_forward_pre_hook"),
)
_NAMES = frozenset(("weight_orig", "weight_mask"))
_HOOKED = ("parameter", "buffer")
# The dicts of a module that pruning changes.
_DICTS = ("_parameters", "_buffers", "_forward_pre_hooks")

_SIZE = itemgetter(0)  # of a _Layer


class _Layer(NamedTuple):
    size_bytes: int
    parameters: dict[str, nn.Parameter | None]  # of the module
    weight: nn.Parameter
    pruned: int  # number of weights to zero


def prune(model: nn.Module, amount: float = 0.3, *, ties: str = "position") -> None:
    """Set the `amount` smallest weights by magnitude of each Conv2d to zero, layer by layer.

    `amount` is a share in [0, 1] (float; the count is rounded half to even) or a count (int);
    ValueError and TypeError come from torch's pruning, and no layer is changed then. `ties` says
    which of several equally small weights go: the first ones, or "torch" for torch's own, arbitrary
    choice. Each weight stays the same Parameter, with new memory, and moves behind the bias. Prints
    the global sparsity reached. Paths: C on CPU tensors, the CUDA library on those of one GPU,
    otherwise torch, whose choice among equally small weights it then is. Source of the semantics:
    YOLOv5 5.0.

    >>> prune(nn.Sequential(nn.Conv2d(3, 8, 3)), 0.5)
    Pruning model...  0.482 global sparsity
    """
    if ties not in TIES:
        raise ValueError(f"ties: got {ties!r}, allowed are {', '.join(map(repr, TIES))}")
    print("Pruning model... ", end="")
    prune_layers(model, amount, ties=ties)
    # Not by a format of its own, which a subclass of torch.Tensor has not got.
    print(" %.3g global sparsity" % sparsity(model))  # noqa: UP031


def prune_layers(model: nn.Module, amount: float, *, ties: str = "position") -> None:
    """`prune` without the output."""
    try:
        layers = _layers(model, amount)
    except _native.Unsupported as why:
        OPERATION.note_torch(str(why))
    else:
        if _run(model, layers, ties):
            return
    _prune_with_torch(model, amount)


def check(model: nn.Module, amount: float = 0.3) -> None:
    """Unsupported where torch has to prune `model`, torch's exception for a wrong `amount`."""
    from torch.nn.utils import prune as torch_prune

    torch_prune.L1Unstructured(amount)
    layers = _layers(model, amount)
    _native._C.prune([layer.weight for layer in layers], None, [layer.pruned for layer in layers])


def _layers(model: nn.Module, amount: float) -> list[_Layer]:
    """What there is to prune; Unsupported where torch has to do it."""
    modules = _convolutions(model)
    reason = _refusal(modules)
    if modules is None or reason is not None:
        raise _native.Unsupported(str(reason))
    weights = [module._parameters["weight"] for module in modules]
    counts = _counts(amount, [weight.numel() for weight in weights])
    return [
        _Layer(weight.numel() * weight.element_size(), module._parameters, weight, count)
        for module, weight, count in zip(modules, weights, counts, strict=True)
    ]


def other_choice(model: nn.Module, ties: str) -> str | None:
    """Why torch has to choose among equally small weights of a model that it need not prune."""
    modules = _convolutions(model) or ()
    return _other_choice([module._parameters["weight"] for module in modules], ties)


def _other_choice(weights: list[Tensor], ties: str) -> str | None:
    if ties == "torch" and any(weight.is_cuda for weight in weights):
        return "ties='torch' on a GPU"
    return None


def _run(model: nn.Module, layers: list[_Layer], ties: str) -> bool:
    """Prune the layers in C or in the CUDA library, or return False where torch has to."""
    weights: list[Tensor] = [layer.weight for layer in layers]
    counts = [layer.pruned for layer in layers]
    reason, device = _other_choice(weights, ties), None
    if reason is None:
        reason, device = OPERATION.run(_native._C.prune, weights, None, counts)
    on_gpu = isinstance(device, int)

    def new_weights(batch: list[_Layer]) -> list[Tensor]:
        pruned, ambiguous = _fill(batch, ties)
        for i in ambiguous if ties == "torch" else ():
            pruned[i] = _prune_as_torch(batch[i].weight, batch[i].pruned)
        _verify(model, batch, pruned, ties)
        return pruned

    if reason is None:
        try:
            _replace_all(list(_batches(layers, whole=on_gpu)), new_weights)
        except _native.Unsupported as refused:
            if not on_gpu:
                raise
            # Of a GPU, a launch; torch finds the layers that were pruned as it leaves them.
            reason = str(refused)
    if reason is not None:
        OPERATION.note_torch(reason)
        return False
    OPERATION.calls["CUDA" if on_gpu else "C"] += 1
    return True


def _convolutions(model: nn.Module) -> list[nn.Conv2d] | None:
    """The Conv2d of model.named_modules(), in half the time of its generators.

    None where a module goes over its modules in a way of its own, or is none: a call would be one
    more than the original makes.
    """
    if not isinstance(model, nn.Module):
        return None
    stack: list[nn.Module | None] = [model]
    seen: set[nn.Module] = set()
    found, convolution = [], nn.Conv2d
    walks: dict[type, bool] = {}  # type -> whether it walks as torch does
    while stack:
        module = stack.pop()
        if module is None:  # a submodule registered so
            continue
        kind = type(module)
        if kind not in walks:
            walks[kind] = _walks_as_torch(kind)
        if not walks[kind] or "named_modules" in module.__dict__:
            return None
        if module in seen:
            continue
        seen.add(module)
        if isinstance(module, convolution):
            found.append(module)
        if module._modules:
            stack.extend(reversed(module._modules.values()))
    return found


def _walks_as_torch(kind: type) -> bool:
    """True for modules that go over themselves as torch does, and are told apart as it does."""
    return issubclass(kind, nn.Module) and all(
        getattr(kind, name) is getattr(nn.Module, name)
        for name in ("named_modules", "__hash__", "__eq__", "__getattribute__")
    )


def _refusal(modules: list[nn.Conv2d] | None) -> str | None:
    """Why these modules are for torch's own pruning, or None; C judges the tensors' memory."""
    from torch.nn.utils import prune as torch_prune

    if modules is None:
        return "named_modules is not torch's"
    if any(getattr(torch_module, f"_global_{what}_registration_hooks", None) for what in _HOOKED):
        return "a global registration hook is set"
    has_inference = hasattr(torch, "is_inference_mode_enabled")  # torch 1.9 and later
    judged = has_inference and not torch.is_inference_mode_enabled()  # torch may refuse them then
    types = {type(module) for module in modules}
    for kind in types - {nn.Conv2d}:
        if any(getattr(kind, name) is not getattr(nn.Module, name) for name in _METHODS):
            return f"{kind.__qualname__} overrides methods of nn.Module"
        if hasattr(kind, "weight"):
            return f"{kind.__qualname__} has a weight of its own kind"
    for module in modules:
        state = module.__dict__
        parameters, buffers = state["_parameters"], state["_buffers"]
        weight = parameters.get("weight")
        if type(weight) is not nn.Parameter:
            return "a weight that is no plain parameter, such as one with a mask already"
        if not weight.is_leaf or (judged and weight.is_inference()):
            return "a weight that is computed from others, or an inference tensor"
        if state["_forward_pre_hooks"] and torch_prune.is_pruned(module):
            return "a module with a pruning hook"
        if (
            ("weight" in state or "weight_orig" in state or "weight_mask" in state)
            or not _NAMES.isdisjoint(parameters)
            or not (_NAMES.isdisjoint(buffers) and _NAMES.isdisjoint(state["_modules"]))
        ):
            return "a module that uses the names pruning uses"
    return None


def _prune_with_torch(model: nn.Module, amount: float) -> None:
    """The reference; when it raises, every module is as it was before."""
    undo: list[Callable[[], None]] = []
    try:
        reference.prune_layers(model, amount, lambda module: undo.append(_snapshot(module)))
    except BaseException:
        for take_back in reversed(undo):
            take_back()
        raise


def _snapshot(module: nn.Module) -> Callable[[], None]:
    """A function that takes back what pruning did to the module: dicts, and parameters' memory."""
    attributes = dict(module.__dict__)
    inside = {name: dict(attributes[name]) for name in _DICTS}
    memory = [(p, p.data) for p in module._parameters.values() if type(p) is nn.Parameter]

    def undo() -> None:
        for name, content in inside.items():
            attributes[name].clear()
            attributes[name].update(content)
        module.__dict__.clear()
        module.__dict__.update(attributes)
        for parameter, data in memory:
            if parameter.data_ptr() != data.data_ptr():
                parameter.data = data

    return undo


def _counts(amount: float, sizes: list[int]) -> list[int]:
    """How many weights each layer loses; Unsupported for an amount that torch has to judge."""
    if is_plain_number(amount) and isinstance(amount, numbers.Integral):
        if 0 <= amount <= min(sizes, default=-1):
            return [int(amount)] * len(sizes)
    elif is_plain_number(amount) and 0.0 <= amount <= 1.0:
        return [round(amount * size) for size in sizes]
    raise _native.Unsupported("an amount that torch has to judge")


def _batches(layers: list[_Layer], *, whole: bool = False) -> Iterator[list[_Layer]]:
    """The layers, largest first, in lists that one call of C fills. No weight twice in a list.

    `whole`: as few lists as that leaves.
    """
    threads, enough = torch.get_num_threads(), _SHARED_BATCH_BYTES
    if whole:
        threads, enough = 1, sum(map(_SIZE, layers)) + 1
    elif threads == 1 or sum(map(_SIZE, layers)) < enough:
        threads, enough = 1, _BATCH_BYTES
    batch: list[_Layer] = []
    inside: set[int] = set()
    total = 0
    for layer in sorted(layers, key=_SIZE, reverse=True):
        # With as much as the largest layer for every thread, none has to wait long.
        if batch and (
            total >= max(enough, threads * batch[0].size_bytes) or id(layer.weight) in inside
        ):
            yield batch
            batch, inside, total = [], set(), 0
        batch.append(layer)
        inside.add(id(layer.weight))
        total += layer.size_bytes
    if batch:
        yield batch


def _fill(batch: list[_Layer], ties: str) -> tuple[list[Tensor], Any]:
    """New weights of the layers, pruned, and the layers in which C did not do as `ties` says."""
    weights = [layer.weight for layer in batch]
    pruned = [torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights]
    counts = [layer.pruned for layer in batch]
    like_torch = ties == "torch" and all(map(_choice_is_known, {w.dtype for w in weights}))
    return pruned, _native._C.prune(weights, pruned, counts, like_torch)


@functools.cache
def _choice_is_known(dtype: torch.dtype) -> bool:
    """Whether C chooses among equally small weights as this torch's topk does; a few ms, once."""
    places = torch.arange(_PROBED, device="cpu")
    for levels in (3, 120, 1999):  # exact in each of these types, or rounded into more ties
        # Squares modulo a prime: as good as random here, and the same in every process.
        weight = ((places * places % 65_537 % levels) - levels // 2).to(dtype)
        for size in (2, 5, 40, 259, 5000, _PROBED):
            part, count = weight[:size], -(-size // 3)
            pruned = torch.empty_like(part)
            if _native._C.prune([part], [pruned], [count], True):
                return False
            try:
                expected = _prune_as_torch(part, count)
            except RuntimeError as error:
                if not probe.says_not_implemented(error):
                    raise
                return False  # topk has no float16 there; the call itself says so
            if not torch.equal(pruned, expected):
                return False
    return True


def _verify(model: nn.Module, batch: list[_Layer], pruned: list[Tensor], ties: str) -> None:
    weights, counts = [layer.weight for layer in batch], [layer.pruned for layer in batch]
    verify.prune(model, weights, pruned, counts, exact=ties == "torch")


def _replace_all(
    batches: list[list[_Layer]], new_weights: Callable[[list[_Layer]], list[Tensor]]
) -> None:
    """Put new weights in place of the old ones in all batches, which are taken off the list.

    What a signal handler raises once the first batch is done waits for the last one, since the old
    weights' memory is used again. So does any other error, for a while.
    """
    count = len(batches)
    raised: list[BaseException] = []  # the newest, the others as its cause
    tries = _TRIES
    while batches:
        try:
            _replace_until_empty(batches, new_weights)
        except _native.Unsupported:
            raise  # torch prunes what is left, and what was pruned as it is
        except BaseException as error:
            if raised:
                error.__cause__ = raised.pop()  # a context would be lost when it is raised again
            tries -= 1
            if len(batches) == count or not tries:
                raise
            raised.append(error)
    if raised:
        raise raised.pop()


def _replace_until_empty(
    batches: list[list[_Layer]], new_weights: Callable[[list[_Layer]], list[Tensor]]
) -> None:
    while batches:
        _replace(batches, new_weights(batches[0]))


def _replace(batches: list[list[_Layer]], pruned: list[Tensor]) -> None:
    """Put the pruned weights of the first batch in place and the batch off the list, as a whole."""
    parameters = [layer.parameters for layer in batches[0]]
    weights = [layer.weight for layer in batches[0]]
    whole.run(
        map(setattr, weights, repeat("data"), pruned),
        map(delitem, parameters, repeat("weight")),  # goes to the end, as after torch's pruning
        map(setitem, parameters, repeat("weight"), weights),
        map(batches.pop, (0,)),
    )


def _prune_as_torch(weight: Tensor, count: int) -> Tensor:
    """The pruned weight, with torch's choice among equally small ones."""
    weight = weight.detach()
    mask = torch.ones_like(weight)
    smallest = torch.topk(weight.abs().view(-1), k=count, largest=False)
    mask.view(-1)[smallest.indices] = 0
    return mask * weight


def _usual() -> tuple[nn.Module, float]:
    model, _ = small_layers()
    return model, 0.3


OPERATION = Operation(
    "prune",
    ("prune",),
    "prune",
    Originals(
        ("nn", "Conv2d"),
        (
            "nn.Module",
            "named_modules __setattr__ __getattr__ __delattr__ register_parameter register_buffer "
            "register_forward_pre_hook",
        ),
        (
            "nn.utils.prune",
            "l1_unstructured remove L1Unstructured BasePruningMethod _validate_pruning_amount "
            "_validate_pruning_amount_init _compute_nparams_toprune",
        ),
        ("nn.utils.prune.L1Unstructured", "apply compute_mask apply_mask remove __call__"),
        ("", "topk abs ones_like"),
        ("Tensor", "clone to view detach"),
        imports="torch.nn.utils.prune",
    ),
    _usual,
    prune_layers,
    reference.prune_layers,
    check,
)
