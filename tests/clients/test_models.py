"""A fused model under the overlay traces, exports and compiles to the same graphs and bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from compare import HERE
from runs import Outcome, Pair


@pytest.fixture(scope="module")
def exported(newest: Pair, report: Callable[..., None]) -> Outcome:
    script = [str(HERE / "export_model.py"), "--name", "export"]
    outcome = newest.both(script, [*newest.route.before, *script], "export")
    report(newest.client.name, newest.route.name, "trace, ONNX, torch.compile", outcome)
    return outcome


def test_everything_is_equal(exported: Outcome) -> None:
    assert exported.differences() == []
    assert {"plain.txt", "augmented.txt", "plain.onnx", "augmented.onnx"} <= set(exported.our_files)


def test_graph_of_the_augmented_model_scales_images(newest: Pair, exported: Outcome) -> None:
    """Not a constant that C computed while torch was tracing."""
    graph = (newest.ours.folder / "runs" / "export" / "augmented.txt").read_text()
    assert "aten::upsample_bilinear2d" in graph
    assert "aten::pad" in graph


def test_c_left_the_graphs_to_torch(exported: Outcome) -> None:
    """In the eager run C scaled the images; wherever torch looked on, torch did."""
    package = exported.ours.end["package"]
    assert package["calls"]["scale_img"]["C"] >= 2
    reasons = package["reasons"]["scale_img"]
    assert any("jit.trace" in reason for reason in reasons)
    assert not any("torch.compile" in reason for reason in reasons)  # a graph does not count
