"""Verify mode finds a fault planted in C for each path, says where, and changes nothing else."""

from __future__ import annotations

import re
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from yolov5_utils import _native, reference, verify
from yolov5_utils.ops.ema import ModelEMA, update_modules
from yolov5_utils.ops.fuse import fuse_conv_and_bn
from yolov5_utils.ops.fuse_model import fuse_model
from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.ops.scale_img import scale_img
from yolov5_utils.ops.sparsity import sparsity
from yolov5_utils.overlay import replacements
from yolov5_utils.overlay.known_callables import SparsityForm

from ..support import python

C = _native._C


@pytest.fixture(autouse=True)
def verify_mode(monkeypatch):
    monkeypatch.setattr(verify, "ON", True)


@pytest.fixture(scope="module", autouse=True)
def settled():
    """What is found out about torch on first use is known before a fault is planted."""
    prune_layers(small_model(), 0.3, ties="torch")
    scale_img(torch.rand(1, 3, 40, 50), 0.83)
    fuse_conv_and_bn(*small_model().eval().requires_grad_(False)[:2])


def small_model(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = nn.Conv2d(3, 8, 3)
        model = nn.Sequential(first, nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Conv2d(3, 8, 3))
        model[3].weight = first.weight  # tied
    return model


def flip_last_bit(tensor: torch.Tensor, index: int) -> None:
    """Change an element of contiguous float32 memory by one unit in the last place."""
    tensor.detach().view(-1).view(torch.int32)[index] ^= 1


def after(function, fault):
    """`function` with `fault(arguments, result)` behind it, whose result takes its place."""

    def faulty(*arguments):
        return fault(arguments, function(*arguments))

    return faulty


@pytest.mark.parametrize(("key", "index"), [("0.weight", 5), ("1.running_var", 7), ("2.bias", 0)])
def test_a_fault_in_the_average_is_found(monkeypatch, key, index):
    average, source = small_model(0), small_model(1)
    expected, twin = deepcopy(average), deepcopy(source)
    reference.ema_update(expected, twin, 0.9)
    right = expected.state_dict()[key].view(-1)[index].item()

    def fault(arguments, _):
        flip_last_bit(arguments[0].state_dict()[key], index)

    monkeypatch.setattr(C, "ema_update", after(C.ema_update, fault))
    with pytest.raises(verify.VerifyError) as raised:
        update_modules(average, source, 0.9)
    text = str(raised.value)
    assert text.startswith(f"ema: {key}[")
    place = [int(i) for i in re.search(r"\[([\d, ]*)\]", text)[1].split(",")]
    shape = average.state_dict()[key].shape
    assert sum(i * s for i, s in zip(place, torch.empty(shape).stride(), strict=True)) == index
    got, want = re.findall(r"(\S+) \(0x([0-9a-f]{8}), torch\.float32\)", text)
    assert float(want[0]) == right
    assert int(got[1], 16) == int(want[1], 16) ^ 1
    assert f"1 of {shape.numel()} elements differ" in text
    assert C.info()["level"] in text


def test_an_integer_that_c_touches_is_found(monkeypatch):
    average, source = small_model(0), small_model(1)

    def fault(arguments, _):
        arguments[0][1].num_batches_tracked.detach().add_(1)

    monkeypatch.setattr(C, "ema_update", after(C.ema_update, fault))
    with pytest.raises(verify.VerifyError, match=r"ema: 1\.num_batches_tracked\[\]: C gave 1 "):
        update_modules(average, source, 0.9)


def test_an_update_that_is_found_wrong_is_counted(monkeypatch):
    model = small_model()
    ema = ModelEMA(model)
    fault = after(C.ema_update, lambda a, _: flip_last_bit(a[0][2].weight, 3))
    monkeypatch.setattr(C, "ema_update", fault)
    with pytest.raises(verify.VerifyError, match=r"2\.weight\[0, 3, 0, 0\]"):
        ema.update(model)
    assert ema.updates == 1  # it was written


@pytest.mark.parametrize("which", range(5))
def test_a_fault_in_the_counts_is_found(monkeypatch, which):
    def fault(_, counts):
        return (*counts[:which], counts[which] + 1, *counts[which + 1 :])

    monkeypatch.setattr(C, "count_module_zeros", after(C.count_module_zeros, fault))
    torch.set_default_dtype(torch.float64 if which == 4 else torch.float32)
    names = ("parameters", "elements", "zeros", "share in torch.float32", "share in torch.float64")
    with pytest.raises(verify.VerifyError, match=f"sparsity: {names[which]}: C gave "):
        sparsity(small_model())


@pytest.mark.parametrize("exact", (True, False))
def test_the_overlays_count_is_checked_too(monkeypatch, exact):
    fault = after(C.count_module_zeros, lambda _, counts: (*counts[:2], counts[2] + 1, *counts[3:]))
    monkeypatch.setattr(C, "count_module_zeros", fault)
    replacement = replacements._sparsity(
        replacements, reference.sparsity, SparsityForm(exact=exact)
    )
    with pytest.raises(verify.VerifyError, match="sparsity: zeros: C gave 9 "):
        replacement(small_model())


def test_a_fault_in_the_image_is_found(monkeypatch):
    image = torch.rand(1, 3, 40, 50)

    def fault(arguments, _):
        if len(arguments) > 1:
            flip_last_bit(arguments[1], 100)

    monkeypatch.setattr(C, "scale_img", after(C.scale_img, fault))
    with pytest.raises(verify.VerifyError, match=r"scale_img: result\[0, 0, 1, 36\]: C gave "):
        scale_img(image, 0.83)


@pytest.mark.parametrize("ties", ("position", "torch"))
def test_a_fault_in_a_pruned_layer_is_found(monkeypatch, ties):
    fault = after(C.prune, lambda a, result: (a[1] and flip_last_bit(a[1][-1], 17), result)[1])
    monkeypatch.setattr(C, "prune", fault)
    with pytest.raises(verify.VerifyError, match=r"prune: [02]\.weight\[.*\]: C gave "):
        prune_layers(small_model(), 0.3, ties=ties)


WEIGHTS = torch.tensor([3.0, -1.0, 1.0, -1.0, 1.0, 2.0, float("nan"), -0.0])
LAYER = nn.Module()
LAYER.weight = nn.Parameter(WEIGHTS)


def pruned_at(*places: int) -> torch.Tensor:
    mask = torch.ones_like(WEIGHTS)
    mask[list(places)] = 0
    return mask * WEIGHTS


@pytest.mark.parametrize(
    ("places", "right"),
    [
        ((7, 1, 2), True),  # two of the four equals, whichever
        ((7, 3, 4), True),
        ((7, 1), False),  # one too few
        ((7, 1, 2, 3), False),  # one too many
        ((7, 1, 5), False),  # a larger one instead
        ((0, 1, 2), False),
    ],
)
def test_prune_is_compared_up_to_ties(places, right):
    assert torch_prune.L1Unstructured(3).compute_mask(WEIGHTS, torch.ones(8)).sum() == 5
    arguments = (LAYER, [LAYER.weight], [pruned_at(*places)], [3])
    if right:
        verify.prune(*arguments, exact=False)
    else:
        with pytest.raises(verify.VerifyError, match="prune: weight"):
            verify.prune(*arguments, exact=False)
    original = torch_prune.L1Unstructured(3).compute_mask(WEIGHTS, torch.ones(8)) * WEIGHTS
    verify.prune(LAYER, [LAYER.weight], [original], [3], exact=True)
    if not torch.equal(original.nan_to_num(9), pruned_at(*places).nan_to_num(9)):
        with pytest.raises(verify.VerifyError):
            verify.prune(*arguments, exact=True)


def test_a_wrong_value_among_equals_is_found():
    found = pruned_at(7, 1, 2)
    found[1] = 0.0  # −0.0 is right
    with pytest.raises(verify.VerifyError, match=re.escape("[1]: C gave 0.0 (0x00000000,")):
        verify.prune(LAYER, [LAYER.weight], [found], [3], exact=False)


def test_fused_convolutions_are_compared():
    conv, bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    bn.running_var.add_(torch.rand(4))
    bn.eval().requires_grad_(False)
    with torch.no_grad():
        fused = reference.fuse_conv_and_bn(conv, bn)
    state = torch.random.get_rng_state()
    verify.fuse(conv, bn, fused)
    assert torch.equal(state, torch.random.get_rng_state())
    flip_last_bit(fused.bias, 2)
    with pytest.raises(verify.VerifyError, match=r"fuse: bias\[2\]: C gave "):
        verify.fuse(conv, bn, fused)


class Pair(nn.Module):
    """A pair that fuse_model finds."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward_fuse(self, x):
        return self.conv(x)


@pytest.mark.parametrize("fuse", [lambda pair: fuse_conv_and_bn(pair.conv, pair.bn), fuse_model])
def test_fuse_is_compared(monkeypatch, fuse):
    def fault(_, fused):
        flip_last_bit(fused[0].weight, 5)
        return fused

    pair = Pair().eval().requires_grad_(False)
    monkeypatch.setattr(C, "fuse", after(C.fuse, fault))
    with pytest.raises(verify.VerifyError, match=r"fuse: weight\[0, 0, 1, 2\]: C gave "):
        fuse(pair)
    assert list(pair._modules) == ["conv", "bn"]


def test_the_clock_is_compared(monkeypatch):
    assert verify.clock(reference.time_synchronized)() > 0
    with pytest.raises(verify.VerifyError, match="time_synchronized: C gave 1.5 "):
        verify.clock(lambda: 1.5)()


@pytest.mark.parametrize(
    ("found", "expected", "what"),
    [
        (torch.ones(2), torch.ones(2).double(), "dtype torch.float32, the reference torch.float64"),
        (torch.ones(2), torch.ones(3), "shape torch.Size([2]), the reference torch.Size([3])"),
        (torch.tensor(-0.0), torch.tensor(0.0), "-0.0 (0x80000000, torch.float32)"),
        (torch.ones(1).half(), torch.zeros(1).half(), "1.0 (0x3c00, torch.float16)"),
        (torch.ones(1).double(), torch.zeros(1).double(), "1.0 (0x3ff0000000000000, torch.float64"),
        (torch.tensor(float("nan")), torch.tensor(1.0), "nan (0x7fc00000"),
    ],
)
def test_what_a_comparison_says(found, expected, what):
    with pytest.raises(verify.VerifyError) as raised:
        verify._compare("path", "name", found, expected)
    assert f"path: name: C gave {what}" in str(raised.value).replace("[]", "").replace("[0]", "")


def test_one_nan_equals_another():
    nans = torch.tensor([0x7FC00000, 0x7F800001], dtype=torch.int32).view(torch.float32)
    verify._compare("path", "name", nans[:1], nans[1:])


def test_calls_are_left_as_they_are(monkeypatch):
    """The same tensors, version counters and random stream, with the mode on and off."""

    def run():
        torch.manual_seed(0)
        average, source = small_model(0), small_model(1)
        image = torch.rand(1, 3, 40, 50)
        update_modules(average, source, 0.9)
        prune_layers(average, 0.3)
        share = sparsity(average)
        scaled = scale_img(image, 0.83)
        states = (*average.state_dict().values(), *source.state_dict().values())
        values = [*states, share, image, scaled]
        tensors = [*average.parameters(), *average.buffers(), *source.parameters(), image, scaled]
        return values, [t._version for t in tensors], torch.random.get_rng_state()

    values, versions, stream = run()
    monkeypatch.setattr(verify, "ON", False)
    plain_values, plain_versions, plain_stream = run()
    assert all(torch.equal(a, b) for a, b in zip(values, plain_values, strict=True))
    assert versions == plain_versions
    assert torch.equal(stream, plain_stream)


def test_without_the_mode_nothing_is_checked(monkeypatch):
    monkeypatch.setattr(verify, "ON", False)
    fault = after(C.ema_update, lambda a, _: flip_last_bit(a[0][2].weight, 3))
    monkeypatch.setattr(C, "ema_update", fault)
    update_modules(small_model(0), small_model(1), 0.9)
    verify.prune(LAYER, [LAYER.weight], [WEIGHTS], [3], exact=True)


@pytest.mark.parametrize(("value", "mode"), (("0", "False"), ("1", "True")))
def test_the_switch_turns_it_on(value, mode):
    code = "from yolov5_utils import verify; print(verify.ON)"
    assert python("-c", code, YOLOV5_UTILS_VERIFY=value).stdout.strip() == mode
