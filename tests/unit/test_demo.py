"""The demo: drawn data, the detector, its training and score, and the tiny run from end to end."""

from __future__ import annotations

import math
import os

import pytest
import torch
from torch import nn

np = pytest.importorskip("numpy", reason="the demo draws with numpy")

from yolov5_utils import demo  # noqa: E402
from yolov5_utils.demo import compare, learn, model, score, shapes, story  # noqa: E402

SIZE = 96


@pytest.fixture
def small():
    """A narrow detector, untrained."""
    return model.build(shapes.NAMES, SIZE, seed=3, width=4)


def prediction(x, y, width, height, scores, objectness=1.0):
    return [x, y, width, height, objectness, *scores]


# --- drawn pictures


def test_drawing_depends_on_the_seed_alone():
    np.random.seed(1)
    one = shapes.draw(4, SIZE, seed=5)
    np.random.seed(2)
    again, other = shapes.draw(4, SIZE, seed=5), shapes.draw(4, SIZE, seed=6)
    assert np.array_equal(one.images, again.images)
    assert all(np.array_equal(a, b) for a, b in zip(one.labels, again.labels, strict=True))
    assert not np.array_equal(one.images, other.images)


def test_labels_are_boxes_inside_the_picture():
    made = shapes.draw(30, SIZE, seed=0)
    assert made.images.shape == (30, 3, SIZE, SIZE)
    assert made.images.dtype == np.uint8
    kinds = set()
    for label in made.labels:
        assert 1 <= len(label) <= shapes.MOST_SHAPES
        assert label.dtype == np.float32
        kinds |= set(label[:, 0].astype(int))
        assert (label[:, 1:] >= -1e-3).all()
        assert (label[:, 1:] <= SIZE + 1e-3).all()
        assert (label[:, 3:] - label[:, 1:3] > shapes.RADIUS_PIXELS[0]).all()
    assert kinds == {0, 1, 2}


@pytest.mark.parametrize("kind", range(3))
def test_a_shape_fills_its_box(kind):
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    for _ in range(20):
        outline = shapes._outline(rng, kind, SIZE)
        left, top, right, bottom = shapes._box(outline)
        inside = shapes._distance(outline, rows, columns) < 0
        ys, xs = np.nonzero(inside)
        assert left <= xs.min() + 0.5 <= left + 3
        assert right - 3 <= xs.max() + 0.5 <= right
        assert top <= ys.min() + 0.5 <= top + 3
        assert bottom - 3 <= ys.max() + 0.5 <= bottom
        share = inside.sum() / ((right - left) * (bottom - top))
        assert 0.3 < share < 1.1


# --- the detector


def test_shapes_of_raw_and_decoded_predictions(small):
    for height, width in ((96, 96), (80, 80), (64, 96)):
        images = torch.rand(2, 3, height, width)
        raw = small.train()(images)
        assert [tuple(y.shape) for y in raw] == [
            (2, 3, height // stride, width // stride, 8) for stride in model.STRIDES
        ]
        decoded = small.eval()(images)
        assert decoded.shape == (2, sum(y[0, ..., 0].numel() for y in raw), 8)


def test_zero_decodes_to_the_anchor_in_the_middle_of_its_cell(small):
    raw = [torch.zeros(1, 3, SIZE // s, SIZE // s, 8) for s in model.STRIDES]
    fine = small.detect.decode(raw)[0, : 3 * 12 * 12].view(3, 12, 12, 8)
    assert fine[1, 2, 5].tolist() == [(5 + 0.5) * 8, (2 + 0.5) * 8, 18.0, 18.0] + [0.5] * 4


def test_building_leaves_the_global_random_stream_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again = (model.build(shapes.NAMES, SIZE, seed=1, width=4) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_an_untrained_model_expects_few_objects(small):
    objectness = small.eval()(torch.rand(1, 3, SIZE, SIZE))[..., 4]
    assert objectness.mean() < 0.1


@torch.no_grad()
def test_fused_model_computes_the_same(small):
    images = torch.rand(2, 3, SIZE, SIZE)
    small.train()(images)  # statistics that are not 0 and 1
    expected = small.eval()(images)
    torch.testing.assert_close(small.fuse()(images), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in small.modules())


# --- learning


def test_flatten_joins_pictures():
    labels = [
        torch.tensor([[2.0, 10, 20, 30, 60]]),
        torch.empty(0, 5),
        torch.tensor([[0.0, 0, 0, 4, 8]]),
    ]
    assert learn.flatten(labels).tolist() == [[0, 2, 20, 40, 20, 40], [2, 0, 2, 4, 4, 8]]


def test_assignment_takes_fitting_anchors_in_the_nearest_cells():
    anchors = torch.tensor([[10.0, 10.0], [100.0, 100.0]])
    one = torch.tensor([[0, 1, 20.0, 29.0, 12, 12]])  # cell (2.5, 3.6) at stride 8: right and below
    found = learn.assign(one, anchors, 8, 12, 12)
    cells = set(zip(found.column.tolist(), found.row.tolist(), strict=True))
    assert cells == {(2, 3), (3, 3), (2, 4)}
    assert found.anchor.tolist() == [0, 0, 0]
    assert found.kind.tolist() == [1, 1, 1]
    assert found.box.tolist() == [[20, 29, 12, 12]] * 3


def test_assignment_stays_on_the_grid():
    corner = torch.tensor([[0, 0, 1.0, 95.0, 10, 10]])
    found = learn.assign(corner, torch.tensor([[10.0, 10.0]]), 8, 12, 12)
    assert (found.column.tolist(), found.row.tolist()) == ([0], [11])


def test_complete_iou_of_known_boxes():
    box = torch.tensor([[10.0, 10, 4, 4]])
    assert learn.complete_iou(box, box).item() == pytest.approx(1.0, abs=1e-5)
    beside = torch.tensor([[14.0, 10, 4, 4]])  # touching: IoU 0, centres 4 of a diagonal of √80
    assert learn.complete_iou(box, beside).item() == pytest.approx(-16 / 80, abs=1e-5)
    wide = torch.tensor([[10.0, 10, 8, 4]])
    change = 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2
    expected = 0.5 - change**2 / (1 - 0.5 + change)
    assert learn.complete_iou(box, wide).item() == pytest.approx(expected, abs=1e-5)


def test_mirroring_moves_pictures_and_boxes_alike():
    images = torch.zeros(64, 3, 8, 8, dtype=torch.uint8)
    images[:, :, 3, 1] = 255
    labels = [torch.tensor([[0.0, 1, 3, 2, 4]])] * 64
    batch, found = learn.pick(images, labels, torch.arange(64), torch.Generator().manual_seed(0))
    assert sorted(set(found[:, 2].tolist())) == [1.5, 6.5]
    for picture, x in zip(batch, found[:, 2].tolist(), strict=True):
        assert picture[0, 3, int(x)] == 1.0
        assert picture.sum() == 3.0


def test_loss_without_a_fitting_shape_is_finite(small):
    raw = small.train()(torch.rand(1, 3, SIZE, SIZE))
    huge = torch.tensor([[0, 0, 48.0, 48.0, 500, 500]])
    loss = learn.loss_of(small, raw, huge)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.slow
def test_the_loss_falls_and_the_run_repeats():
    images, labels = story.drawn(4, seed=1)
    runs = []
    for _ in range(2):
        detector = model.build(shapes.NAMES, SIZE, seed=0, width=8)
        seen = []
        ema, history = learn.train(
            detector, images, labels, 20, seed=0, report=lambda step, loss, s=seen: s.append(step)
        )
        assert seen == list(range(1, 21))
        runs.append((history.losses, list(ema.ema.state_dict().values())))
        assert ema.updates == 20
        assert 0 < history.ema_seconds < history.seconds
    losses = runs[0][0]
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3])
    assert losses == runs[1][0]
    assert all(compare.same_bits(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


# --- scoring


def test_suppression_keeps_the_best_of_each_class():
    found = score.suppress(
        torch.tensor(
            [
                prediction(20, 20, 10, 10, (0.8, 0.1)),
                prediction(21, 20, 10, 10, (0.9, 0.1)),  # the better of two rivals
                prediction(20, 20, 10, 10, (0.1, 0.7)),  # another class is no rival
                prediction(60, 60, 10, 10, (0.6, 0.1)),
                prediction(60, 60, 10, 10, (0.9, 0.1), objectness=0.001),  # too faint
            ]
        )
    )
    expected = [[16, 15, 26, 25, 0.9, 0], [15, 15, 25, 25, 0.7, 1], [55, 55, 65, 65, 0.6, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_suppression_of_nothing():
    assert score.suppress(torch.zeros(5, 8)).shape == (0, 6)


def box(x, value, kind=0):
    """A found 10 × 10 box at x."""
    return [x, 0.0, x + 10.0, 10.0, value, float(kind)]


def shape(x, kind=0):
    """The label of a 10 × 10 shape at x."""
    return [float(kind), x, 0.0, x + 10.0, 10.0]


@pytest.mark.parametrize(
    ("found", "labels", "expected"),
    [
        ([box(0, 0.9), box(50, 0.8)], [shape(0), shape(50)], 1.0),
        ([], [shape(0)], 0.0),
        ([box(0, 0.9)], [shape(0), shape(50)], 51 / 101),  # recalls 0.00 … 0.50 at precision 1
        ([box(50, 0.9), box(0, 0.8)], [shape(0)], 0.5),  # a wrong one comes first
        ([box(0, 0.9), box(50, 0.8)], [shape(0)], 1.0),  # a wrong one comes last
        ([box(0, 0.9), box(1, 0.8), box(50, 0.7)], [shape(0), shape(50)], (51 + 50 * 2 / 3) / 101),
        ([box(0, 0.9, kind=1)], [shape(0)], 0.0),
        ([box(4, 0.9)], [shape(0)], 0.0),  # IoU 6/14
        ([box(3, 0.9)], [shape(0)], 1.0),  # IoU 7/13
    ],
)
def test_average_precision_of_hand_made_cases(found, labels, expected):
    result = score.mean_average_precision(
        [torch.tensor(found).view(-1, 6)], [torch.tensor(labels)], classes=2
    )
    assert result.mean == pytest.approx(expected)
    assert math.isnan(result.per_class[1])  # a class without shapes does not count


def test_average_precision_joins_pictures_and_classes():
    found = [torch.tensor([box(0, 0.5), box(0, 0.9, 1)]), torch.tensor([box(50, 0.7)])]
    labels = [torch.tensor([shape(0), shape(0, 1)]), torch.tensor([shape(0)])]
    result = score.mean_average_precision(found, labels, classes=2)
    assert result.per_class == [pytest.approx(0.5 * 51 / 101), 1.0]  # the wrong one scores higher
    assert result.mean == pytest.approx((0.5 * 51 / 101 + 1) / 2)


class Brightest(nn.Module):
    """'Finds' the brightest pixel of each picture: what augmented inference has to bring back."""

    def __init__(self):
        super().__init__()
        self.stride = torch.tensor([16])

    def forward(self, images):
        at = images[:, 0].flatten(1).argmax(1)
        width = images.shape[3]
        x, y = at % width + 0.5, at // width + 0.5
        rest = torch.ones(len(images), 4) * 8
        return torch.cat((x[:, None], y[:, None], rest), dim=1)[:, None]


def test_augmented_inference_returns_to_the_pictures_pixels():
    images = torch.zeros(1, 3, SIZE, SIZE)
    images[:, :, 20:23, 70:73] = 5.0
    found = score.augmented(Brightest(), images)
    assert found.shape == (1, 3, 6)
    assert (found[0, :, :2] - torch.tensor([71.5, 21.5])).abs().max() < 2.0


def test_finding_goes_through_all_pictures(small):
    found = score.find(small.eval(), torch.zeros(5, 3, SIZE, SIZE, dtype=torch.uint8), batch=2)
    assert len(found) == 5
    assert all(boxes.shape[1] == 6 for boxes in found)


# --- comparing


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bits_are_compared_not_values(dtype):
    zero, nan = torch.zeros(3, dtype=dtype), torch.full((3,), float("nan"), dtype=dtype)
    assert compare.same_bits(zero, zero.clone())
    assert compare.same_bits(nan, nan.clone())
    assert not compare.same_bits(zero, -zero)
    assert not compare.same_bits(zero, zero[:2])
    assert not compare.same_bits(zero, zero.int())
    assert compare.same_bits(zero[0], zero[0].clone())


def race(original, ours, operation="sparsity", **more):
    return compare.Race("path", operation, lambda: torch.zeros(3), original, ours, **more)


def test_a_differing_bit_is_found():
    same = compare.run(race(lambda x: [x], lambda x: [x + 0]), seconds=0)
    other = compare.run(race(lambda x: [x], lambda x: [-x]), seconds=0)
    missing = compare.run(race(lambda x: [x], lambda x: []), seconds=0)
    assert [row.equal for row in (same, other, missing)] == [True, False, False]
    assert " NO " in compare.table([other])
    assert " yes " in compare.table([same])


def test_every_hot_path_agrees_on_an_untrained_detector(small):
    from copy import deepcopy

    images = torch.rand(2, 3, SIZE, SIZE)
    average = deepcopy(small).eval()
    small.train()(images)
    rows = [compare.run(r, seconds=0) for r in compare.races(small, average, images, 0.2)]
    assert {r.operation for r in compare.races(small, average, images, 0.2)} == set(
        compare.OPERATIONS
    )
    for row in rows:
        assert row.equal, row
        assert row.original_ms > 0
        assert row.ours_ms > 0
        assert row.way.startswith(("C", "torch (")), row


def test_the_averaging_step_that_is_timed_is_the_reference(small):
    from copy import deepcopy

    from yolov5_utils import reference

    small.train()(torch.rand(2, 3, SIZE, SIZE))
    expected, ema = deepcopy(small).eval(), compare.ModelEMA(small, updates=100)
    for parameter in small.parameters():
        parameter.data.add_(0.1)
    compare.original_update(ema, small)
    reference.ema_update(expected, small, ema.decay(101))
    states = ema.ema.state_dict(), expected.state_dict()
    assert all(map(compare.same_bits, *(state.values() for state in states)))


def test_the_table_is_aligned():
    rows = [
        compare.Row("a", 12.3456, 1.0, True, False, "C"),
        compare.Row("a longer name", 0.00071, 0.0007, True, True, "torch (why)"),
    ]
    head, rule, *lines = compare.table(rows).splitlines()
    assert set(rule) == {"-"}
    assert len({line.index(word) for line, word in zip([head, *lines], ("way", "C", "torch"))}) == 1  # noqa: B905
    assert "12.346" in lines[0]
    assert "12.35x" in lines[0]
    assert "in order" in lines[1]


@pytest.mark.parametrize(
    ("value", "text"), [(123.4, "123.400"), (0.0123, "0.0123"), (0.000712, "0.000712")]
)
def test_milliseconds(value, text):
    assert compare.milliseconds(value) == text


def test_machine_line_names_torch_and_level():
    line = compare.machine()
    assert torch.__version__ in line
    assert compare._C.info()["level"] in line


# --- the whole demo


def test_torch_waits_without_spinning_only_while_it_is_loaded(monkeypatch):
    monkeypatch.delenv(demo.WAITING, raising=False)
    with demo._patient_threads():
        assert os.environ[demo.WAITING] == "PASSIVE"
    assert demo.WAITING not in os.environ
    monkeypatch.setenv(demo.WAITING, "ACTIVE")
    with demo._patient_threads():
        assert os.environ[demo.WAITING] == "ACTIVE"
    assert os.environ[demo.WAITING] == "ACTIVE"


@pytest.mark.parametrize(
    ("reached", "equal", "code"), [(0.9, True, 0), (0.9, False, 1), (0.1, True, 1), (0.1, False, 1)]
)
def test_exit_code(reached, equal, code, capsys):
    row = compare.Row("the path", 1.0, 1.0, equal, False, "C")
    assert story._verdict(reached, [row], 1.0) == code
    printed = capsys.readouterr().out
    assert ("FAILED" in printed) == bool(code)
    assert ("the path" in printed) == (not equal)


def test_progress_without_a_terminal_is_a_few_lines(capsys):
    progress = story.Progress(480)
    for step in range(1, 481):
        progress(step, 1.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert "480/480" in lines[-1]


@pytest.mark.parametrize("missing", [["matplotlib"], ["numpy"], ["numpy", "matplotlib"]])
def test_a_missing_package_is_told_before_anything_else(missing, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name in missing else object())
    assert demo.main(["--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert 'pip install "yolov5-torch-utils[demo]"' in told
    assert all(name in told for name in missing)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_made_is_told(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the demo asks for it first")
    (tmp_path / "file").write_text("")
    assert demo.main(["--output", str(tmp_path / "file")]) == 1
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--epochs", "0"], ["--epochs", "x"], ["--seed", "-1"], ["--seed", str(2**31)], ["more"]],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2


@pytest.mark.slow
def test_a_tiny_run_tells_everything_and_fails_honestly(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the demo draws its pictures with matplotlib")
    monkeypatch.setattr(story, "HELD_OUT", 6)
    monkeypatch.setattr(story, "TIMED_PASSES", 1)
    monkeypatch.setattr(compare, "SECONDS_EACH", 0.0)
    output = tmp_path / "a" / "b"
    code = demo.main(["--output", str(output), "--epochs", "1", "--pictures", "32", "--seed", "4"])
    printed = capsys.readouterr().out
    assert code == 1  # two steps teach nothing, and the demo says so
    assert "FAILED: mAP50" in printed
    assert "original ms" in printed
    for name in ("ModelEMA.update", "fuse_conv_and_bn", "sparsity", "prune", "scale_img"):
        assert name in printed
    for name in ("detections.png", "speed.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
        assert (output / name).stat().st_size > 10_000
