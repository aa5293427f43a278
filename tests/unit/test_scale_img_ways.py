"""Which calls of scale_img run in C and which as torch's operations, with which reason; the errors;
the calibration that chooses a variant."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from yolov5_utils import _C, reference
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import scale_img

from .. import older_torch
from ..support import Watch, in_threads, takes
from .test_scale_img import assert_same, check, values

OP = sys.modules["yolov5_utils.ops.scale_img"]
PATH = OPERATIONS["scale_img"]


def reason_of(call: Callable[[], object]) -> str:
    """The one reason noted by a call that must run as torch's operations."""
    before = dict(PATH.reasons)
    with takes("scale_img", "torch"):
        call()
    noted = [key for key, count in PATH.reasons.items() if count != before.get(key, 0)]
    assert len(noted) == 1
    return noted[0]


class Custom(Tensor):
    """A subclass that adds nothing."""


REFUSED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "float64": (lambda: values(1, 3, 40, 50).double(), "float32"),
    "float16": (lambda: values(1, 3, 40, 50).half(), "float32"),
    "bfloat16": (lambda: values(1, 3, 40, 50).bfloat16(), "float32"),
    "uint8": (lambda: torch.full((1, 3, 40, 50), 9, dtype=torch.uint8), "float32"),
    "channels last, 4": (
        lambda: values(1, 4, 40, 50).contiguous(memory_format=torch.channels_last),
        "3 channels",
    ),
    "every second column": (lambda: values(1, 3, 40, 100)[..., ::2], "contiguous"),
    "transposed": (lambda: values(1, 3, 50, 40).transpose(2, 3), "contiguous"),
    "a permuted picture": (lambda: values(40, 50, 3).permute(2, 0, 1)[None], "contiguous"),
    "subclass": (
        lambda: values(1, 3, 40, 50).as_subclass(Custom),
        "a subclass of torch.Tensor, or no tensor",
    ),
    "meta": (lambda: torch.empty(1, 3, 40, 50, device="meta"), "refused"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_runs_as_torch(name: str) -> None:
    make, words = REFUSED[name]
    img = make()
    results = []
    assert words in reason_of(lambda: results.append(scale_img(img, 0.83)))
    expected = reference.scale_img(img, 0.83)
    assert type(results[0]) is type(expected)
    assert results[0].dtype == expected.dtype
    assert results[0].stride() == expected.stride()
    if not img.is_meta:
        assert torch.equal(results[0], expected)


def test_gradients() -> None:
    img = values(1, 3, 40, 50).requires_grad_()
    results = []
    assert "requires grad" in reason_of(lambda: results.append(scale_img(img, 0.83)))
    results[0].sum().backward()
    assert img.grad is not None
    with torch.no_grad():
        check(img, 0.83)
    check(nn.Parameter(values(1, 3, 40, 50), requires_grad=False), 0.83)


def test_forward_mode_differentiation() -> None:
    img, tangent = values(1, 3, 40, 50), values(1, 3, 40, 50, seed=1)
    value, moved = torch.func.jvp(lambda x: scale_img(x, 0.5), (img,), (tangent,))
    expected = torch.func.jvp(lambda x: reference.scale_img(x, 0.5), (img,), (tangent,))
    assert torch.equal(value, expected[0])
    assert torch.equal(moved, expected[1])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(img, tangent)
        found = torch.autograd.forward_ad.unpack_dual(scale_img(dual, 0.5))
        assert found.tangent is not None


def test_function_transforms() -> None:
    images = values(4, 1, 3, 40, 50)
    mapped = torch.func.vmap(lambda x: scale_img(x, 0.5))(images)
    expected = torch.func.vmap(lambda x: reference.scale_img(x, 0.5))(images)
    assert torch.equal(mapped, expected)
    slope = torch.func.grad(lambda x: scale_img(x, 0.5).sum())(images[0])
    assert torch.equal(
        slope, torch.func.grad(lambda x: reference.scale_img(x, 0.5).sum())(images[0])
    )


class WatchDispatch(TorchDispatchMode):
    """Notes the operations' names, one level further down."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode_type", [Watch, WatchDispatch])
def test_modes_see_what_the_original_shows_them(
    mode_type: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on the very first call: the calibration does not run inside a mode."""
    monkeypatch.setattr(OP, "_calibration", OP.Calibration())
    img = values(1, 3, 40, 50)
    with mode_type() as expected:
        reference.scale_img(img, 0.83)
    with mode_type() as mode:
        assert "mode is active" in reason_of(lambda: scale_img(img, 0.83))
    hidden = {"__get__", "requires_grad"}  # attributes that are looked at
    assert [name for name in mode.seen if name not in hidden] == [
        name for name in expected.seen if name not in hidden
    ]


def test_tracing_keeps_the_operations() -> None:
    img = values(1, 3, 40, 50)
    traced = torch.jit.trace(lambda x: scale_img(x, 0.83), img)
    assert "upsample_bilinear2d" in str(traced.graph)
    assert torch.equal(traced(img), scale_img(img, 0.83))


def test_compile_keeps_the_operations() -> None:
    compiled = [
        torch.compile(lambda x, f=function: f(x, 0.83) * 1.0, backend="aot_eager", fullgraph=True)
        for function in (scale_img, reference.scale_img)
    ]
    for number in range(12):  # more than torch compiles anew before it gives up
        img = values(1, 3, 40, 50) + number
        assert torch.equal(compiled[0](img), compiled[1](img))


def test_autocast_and_inference_mode(level: str) -> None:
    img = values(1, 3, 140, 150)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check(img, 0.83)
    with torch.inference_mode():
        made_inside = img.clone()
        check(img, 0.83)
        assert scale_img(img, 0.83).is_inference() == reference.scale_img(img, 0.83).is_inference()
    assert made_inside.is_inference()
    check(made_inside, 0.83)
    both = scale_img(made_inside, 0.83), reference.scale_img(made_inside, 0.83)
    assert both[0].is_inference() == both[1].is_inference()


def test_default_dtype_and_deterministic_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OP, "_calibration", OP.Calibration())
    images = values(1, 3, 140, 150), values(1, 3, 40, 50)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    check(images[0], 0.83)
    check(images[1], 1.7)


BAD: dict[str, tuple[object, ...]] = {
    "3 dimensions": (torch.ones(3, 40, 50), 0.5),
    "5 dimensions": (torch.ones(1, 1, 3, 40, 50), 0.5),
    "NaN ratio": (torch.ones(1, 3, 40, 50), math.nan),
    "infinite ratio": (torch.ones(1, 3, 40, 50), math.inf),
    "negative ratio": (torch.ones(1, 3, 40, 50), -0.5),
    "ratio of text": (torch.ones(1, 3, 40, 50), "half"),
    "gs 0": (torch.ones(1, 3, 40, 50), 0.5, False, 0),
    "gs None": (torch.ones(1, 3, 40, 50), 0.5, False, None),
    "gs float": (torch.ones(1, 3, 40, 50), 0.5, False, 32.0),
    "gs negative": (torch.ones(1, 3, 40, 50), 0.5, False, -32),
    "result of size 0": (torch.ones(1, 3, 40, 50), 0.001),
    "size 0 and gs 0": (torch.ones(1, 3, 40, 50), 0.001, False, 0),
    "too large": (torch.ones(1, 1, 10, 10), "2", True),  # int("2222222222") rows, then cropped
    "too large and gs 0": (torch.ones(1, 1, 10, 10), "2", False, 0),
    "no rows": (torch.ones(1, 3, 0, 50), 0.5),
    "no channels": (torch.ones(1, 0, 40, 50), 0.5),
    "product overflows": (torch.ones(1, 3, 40, 50), 1e17),
    "not a tensor": ([[1.0]], 0.5),
}


@pytest.mark.parametrize("name", BAD)
def test_the_originals_errors(name: str) -> None:
    outcomes = []
    for function in (reference.scale_img, scale_img):
        try:
            outcomes.append(function(*BAD[name]))  # type: ignore[arg-type]
        except Exception as error:
            outcomes.append((type(error), str(error)))
    if isinstance(outcomes[0], Tensor):
        assert torch.equal(outcomes[1], outcomes[0])
    else:
        assert outcomes[1] == outcomes[0]


def test_numbers_of_other_types() -> None:
    img = values(1, 3, 140, 150)
    for ratio, gs in ((2, 32), (torch.tensor(0.5), 32), (True + 1, True)):
        assert_same(scale_img(img, ratio, gs=gs), reference.scale_img(img, ratio, gs=gs))


def test_bad_calls_of_the_extension() -> None:
    img, out = values(1, 3, 8, 8), torch.empty(1, 3, 4, 4)
    for given, error in (
        ((out[:, :2], (4, 4), 0), ValueError),
        ((out.double(), (4, 4), 0), ValueError),
        ((out.transpose(2, 3), (4, 4), 0), ValueError),
        ((out, (0, 4), 0), ValueError),
        ((out, (4, 2**40), 0), _C.Unsupported),
        ((out, (4, 4), 20), ValueError),
        ((out, (4, 4), -1), ValueError),
        ((out, (4, 4), 2**70), ValueError),
        ((out, [4, 4], 0), TypeError),
        ((out, (4.0, 4), 0), TypeError),
        ((out,), TypeError),
        (("out", (4, 4), 0), _C.Unsupported),
    ):
        with pytest.raises(error):
            _C.scale_img(img, *given)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> dict[object, object]:
    """A calibration that has tried nothing; what it finds."""
    calibration = OP.Calibration()
    monkeypatch.setattr(OP, "_calibration", calibration)
    return calibration._found


def test_tries_each_class_once(
    fresh: dict[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By thread count, channels, order in memory and size; changing the thread count tries anew."""
    for _ in range(2):
        for count, size in itertools.product((1, 2), (40, 160)):
            torch.set_num_threads(count)
            check(values(1, 3, size, size), 0.83)
    assert len(fresh) == (8 if older_torch.APPLIES else 4)  # where one is refused, so is the other
    assert all((variant < 0) == older_torch.APPLIES for variant in fresh.values())
    monkeypatch.setattr(OP, "_agrees", None)  # would fail if it were called again
    check(values(1, 3, 40, 40), 0.83)


@pytest.mark.parametrize("answer", [False, True])
def test_stays_on_torch_where_not_exactly_one_variant_agrees(
    fresh: dict[object, object], monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    monkeypatch.setattr(OP, "_agrees", lambda *args: answer)
    img = values(1, 3, 140, 150)
    results = []
    for _ in range(2):
        words = reason_of(lambda: results.append(scale_img(img, 0.83)))
        assert "no variant in C has the bits" in words
    assert_same(results[0], reference.scale_img(img, 0.83))


@pytest.mark.parametrize("fault", ["padding", "one ulp", "half up"])
def test_another_torch_is_noticed(
    fresh: dict[object, object], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A torch that pads with another value, or rounds otherwise: no variant is taken."""
    true = reference.scale_img

    def other(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
        result = true(img, ratio, same_shape, gs)
        if fault == "padding":
            result[result == torch.tensor(0.447)] = 0.44700003
        elif fault == "one ulp":
            result[..., 7, 7] = torch.nextafter(result[..., 7, 7], torch.tensor(9.0))
        else:
            result[..., 20] = result[..., 21]
        return result

    monkeypatch.setattr(reference, "scale_img", other)
    img = values(1, 3, 140, 150)
    assert "no variant" in reason_of(lambda: assert_same(scale_img(img, 0.83), other(img, 0.83)))


def test_calibration_draws_no_random_number(fresh: dict[object, object]) -> None:
    state = torch.get_rng_state()
    scale_img(torch.ones(1, 3, 40, 50), 0.83)
    assert torch.equal(torch.get_rng_state(), state)


def test_flush_to_zero_runs_as_torch() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormal numbers")
    assert "subnormal" in reason_of(lambda: scale_img(values(1, 3, 40, 50), 0.83))


def test_many_python_threads(fresh: dict[object, object]) -> None:
    images = [values(1, 3, 150 + i, 160, seed=i) for i in range(6)]
    expected = [reference.scale_img(img, 0.83) for img in images]
    results: list[Tensor | None] = [None] * len(images)

    def work(i: int) -> None:
        torch.set_num_threads(1 + i % 2)
        for _ in range(20):
            results[i] = scale_img(images[i], 0.83)

    in_threads(*(partial(work, i) for i in range(len(images))))
    for got, want in zip(results, expected, strict=True):
        assert got is not None
        assert torch.allclose(got, want, atol=1e-5)  # the bits depend on the thread's own count
