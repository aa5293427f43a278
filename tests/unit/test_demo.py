"""The demo: drawn data, the detector, its training and score, and the tiny run from end to end."""

from __future__ import annotations

import math
import os
from copy import deepcopy

import pytest
import torch
from torch import nn

np = pytest.importorskip("numpy", reason="the demo draws with numpy")

from examples import demo  # noqa: E402
from examples.demo import learn, model, score, shapes  # noqa: E402
from yolov5_utils import calls, fuse_model  # noqa: E402

SIZE = shapes.SIZE_PIXELS


@pytest.fixture
def small():
    """A narrow detector, untrained."""
    return model.build(shapes.NAMES, SIZE, seed=3, width=0.25)


def prediction(x, y, width, height, scores, objectness=1.0):
    return [x, y, width, height, objectness, *scores]


# --- drawn pictures


def test_drawing_depends_on_the_seed_alone():
    np.random.seed(1)
    images, labels = shapes.draw(4, seed=5)
    np.random.seed(2)
    again, others = shapes.draw(4, seed=5), shapes.draw(4, seed=6)
    assert np.array_equal(images, again[0])
    assert all(np.array_equal(a, b) for a, b in zip(labels, again[1], strict=True))
    assert not np.array_equal(images, others[0])


def test_labels_are_boxes_inside_the_picture():
    images, labels = shapes.draw(30, seed=0)
    assert images.shape == (30, 3, SIZE, SIZE)
    assert images.dtype == np.uint8
    kinds = set()
    for label in labels:
        assert 1 <= len(label) <= 4
        assert label.dtype == np.float32
        kinds |= set(label[:, 0].astype(int))
        assert (label[:, 1:] >= -1e-3).all()
        assert (label[:, 1:] <= SIZE + 1e-3).all()
        assert (score.overlaps(*[torch.from_numpy(label[:, 1:])] * 2).fill_diagonal_(0) == 0).all()
        assert (label[:, 3:] - label[:, 1:3] > shapes.RADIUS_PIXELS[0]).all()
    assert kinds == {0, 1, 2}


@pytest.mark.parametrize("kind", range(3))
def test_a_shape_fills_its_box(kind):
    rng = np.random.default_rng(7)
    pixels = np.stack(np.mgrid[0:SIZE, 0:SIZE][::-1], axis=-1) + 0.5
    for _ in range(20):
        corners = shapes.outline(rng, shapes.CORNERS[kind])
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        ys, xs = np.nonzero(inside := shapes.distance(corners, pixels) < 0)
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
    fine = small.decode(raw)[0, : 3 * 12 * 12].view(3, 12, 12, 8)
    assert fine[1, 2, 5].tolist() == [(5 + 0.5) * 8, (2 + 0.5) * 8, 18.0, 18.0] + [0.5] * 4


def test_building_leaves_the_global_random_stream_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again = (model.build(shapes.NAMES, SIZE, seed=1, width=0.25) for _ in range(2))
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
    torch.testing.assert_close(fuse_model(small)(images), expected, rtol=1e-4, atol=1e-4)
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
    (picture, anchor, row, column), answered = learn.assign(one, anchors, 8, 12, 12)
    assert set(zip(column.tolist(), row.tolist(), strict=True)) == {(2, 3), (3, 3), (2, 4)}
    assert picture.tolist() == anchor.tolist() == [0, 0, 0]
    assert answered.tolist() == [[0, 1, 20, 29, 12, 12]] * 3


def test_assignment_stays_on_the_grid():
    corner = torch.tensor([[0, 0, 1.0, 95.0, 10, 10]])
    (_, _, row, column), _ = learn.assign(corner, torch.tensor([[10.0, 10.0]]), 8, 12, 12)
    assert (column.tolist(), row.tolist()) == ([0], [11])


def test_complete_iou_of_known_boxes():
    box = torch.tensor([[10.0, 10, 4, 4]])
    assert learn.complete_iou(box, box).item() == pytest.approx(1.0, abs=1e-5)
    beside = torch.tensor([[14.0, 10, 4, 4]])  # touching: IoU 0, centres 4 of a diagonal of √80
    assert learn.complete_iou(box, beside).item() == pytest.approx(-16 / 80, abs=1e-5)
    wide = torch.tensor([[10.0, 10, 8, 4]])
    change = 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2
    expected = 0.5 - change**2 / (1 - 0.5 + change)
    assert learn.complete_iou(box, wide).item() == pytest.approx(expected, abs=1e-5)


def test_loss_without_a_fitting_shape_is_finite(small):
    raw = small.train()(torch.rand(1, 3, SIZE, SIZE))
    huge = torch.tensor([[0, 0, 48.0, 48.0, 500, 500]])
    loss = learn.loss_of(small, raw, huge)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.slow
def test_the_loss_falls_and_the_run_repeats():
    images, labels = shapes.draw(4, seed=1)
    images, labels = torch.from_numpy(images), [torch.from_numpy(label) for label in labels]
    runs = []
    for _ in range(2):
        detector = model.build(shapes.NAMES, SIZE, seed=0, width=0.5)
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
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


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
    mean, per_class = score.mean_average_precision(
        [torch.tensor(found).view(-1, 6)], [torch.tensor(labels)], classes=2
    )
    assert mean == pytest.approx(expected)
    assert math.isnan(per_class[1])  # a class without shapes does not count


def test_average_precision_joins_pictures_and_classes():
    found = [torch.tensor([box(0, 0.5), box(0, 0.9, 1)]), torch.tensor([box(50, 0.7)])]
    labels = [torch.tensor([shape(0), shape(0, 1)]), torch.tensor([shape(0)])]
    mean, per_class = score.mean_average_precision(found, labels, classes=2)
    assert per_class == [pytest.approx(0.5 * 51 / 101), 1.0]  # the wrong one scores higher
    assert mean == pytest.approx((0.5 * 51 / 101 + 1) / 2)


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


@pytest.fixture
def race():
    return pytest.importorskip("examples.demo.race", reason="its picture needs matplotlib")


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (lambda x: [x + 0], ""),
        (lambda x: [-x], "other bits in 1 of 1 tensors, the first is 0.result"),
        (lambda x: [x[:2]], "other bits in 1 of 1 tensors, the first is 0.result"),
        (lambda x: [], "another number of tensors"),
    ],
)
def test_a_differing_bit_is_found(race, ours, words):
    sides = (lambda side: side(torch.zeros(3)), lambda x: [x], ours)
    row = race.run(race.Race("path", "", "sparsity", *sides), seconds=0)
    assert row["difference"] == words
    assert (row["equal"], bool(row["difference"])) == (("NO", True) if words else ("yes", False))


def test_every_hot_path_agrees_on_an_untrained_detector(race, small, tmp_path, monkeypatch):
    monkeypatch.setitem(race.OPERATIONS, "newer", race.OPERATIONS["sparsity"])
    images = torch.rand(2, 3, SIZE, SIZE)
    average = deepcopy(small).eval()
    small.train()(images)
    races = race.races(small, average, images, 0.2)
    assert {each.operation for each in races} == set(calls())
    rows = [race.run(each, seconds=0) for each in races]
    for row in rows:
        assert row["difference"] == "", row
        assert row["equal"] in ("yes", "in order")
        assert row["original_us"] > 0
        assert row["ours_us"] > 0
        assert row["backend"].startswith(("C", "torch (")), row
    race.picture(rows, "a machine", tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 10_000


# --- the whole demo


@pytest.fixture
def story(race):
    from examples.demo import story

    return story


@pytest.mark.parametrize(
    ("reached", "differs", "code"),
    [(0.9, "", 0), (0.9, "a bit", 1), (0.1, "", 1), (0.1, "a bit", 1)],
)
def test_exit_code(story, reached, differs, code, capsys):
    row = {"path": "the path", "difference": differs}
    assert story._verdict(reached, [row], 1.0) == code
    printed = capsys.readouterr().out
    assert ("FAILED" in printed) == bool(code)
    assert ("the path: a bit" in printed) == bool(differs)


def test_progress_without_a_terminal_is_a_few_lines(story, capsys):
    progress = story.progress(480)
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
    assert f"pip install {' '.join(missing)}" in told
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
def test_a_tiny_run_tells_everything_and_fails_honestly(story, race, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(story, "HELD_OUT", 6)
    monkeypatch.setattr(story, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(race, "SECONDS_EACH", 0.0)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    output = tmp_path / "a" / "b"
    code = demo.main(["--output", str(output), "--epochs", "1", "--pictures", "32", "--seed", "4"])
    printed = capsys.readouterr().out
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"  # the user's value stays
    assert code == 1  # two steps teach nothing, and the demo says so
    assert "FAILED: mAP50" in printed
    assert "original µs" in printed
    for name in ("ModelEMA.update", "fuse_conv_and_bn", "sparsity", "prune", "scale_img"):
        assert name in printed
    for name in ("detections.png", "speed.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
        assert (output / name).stat().st_size > 10_000
