"""Whole training steps as benchmarks.whole_steps times them, on the CPU and with small images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import harness, whole_steps

PLAN = whole_steps.Plan("cpu", [2], 32, turns=2, steps=1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """In the place of a client's model: two outputs."""

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5)])
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [self.norm(conv(x)) for conv in self.convs]

    model = Tiny()
    monkeypatch.setattr(whole_steps, "client_model", lambda name: (model, "tiny modules"))
    return model


def test_a_row_for_each_way_with_amp_and_without(tiny: nn.Module) -> None:
    made = whole_steps.table(["n"], PLAN)
    assert [(row["amp"], row["who"]) for row in made.rows] == [
        (amp, who)
        for amp in ("on", "off")
        for who in (whole_steps.NONE, "original", "_foreach_lerp_, kept lists", harness.PACKAGE)
    ]
    for row in made.rows:
        assert row["images_per_s"] == pytest.approx(2e3 / row["step_ms"])
        assert ("over_none_ms" in row) == (row["who"] != whole_steps.NONE)
    assert "tiny modules; 32 px" in made.notes[-1]
    assert "none" in made.text()


def test_steps_train_and_average(tiny: nn.Module) -> None:
    """The loss falls, and what a step ends with is one update."""
    step = whole_steps.Step(tiny, PLAN, 2, amp=True)
    step.optimizer.param_groups[0]["lr"] = 0.1
    updated: list[nn.Module] = []
    for _ in range(5):
        step(updated.append)
    assert updated == [tiny] * 5
    assert step.losses[-1] < step.losses[0]


def test_a_fallback_is_no_figure(tiny: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = whole_steps.updates_of
    monkeypatch.setattr(
        whole_steps, "updates_of", lambda m: {**updates(m), harness.PACKAGE: lambda model: None}
    )
    with pytest.raises(AssertionError, match="ema: not C"):
        whole_steps.table(["n"], PLAN)


def test_a_batch_that_does_not_fit_is_said(
    tiny: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(step: whole_steps.Step, plan: whole_steps.Plan) -> dict[str, list[float]]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(whole_steps, "seconds_of", full)
    made = whole_steps.table(["n"], PLAN)
    assert made.rows == []
    assert made.notes[:2] == [
        "n, batch 2, AMP on: out of memory",
        "n, batch 2, AMP off: out of memory",
    ]


@pytest.mark.slow
def test_the_models_of_the_benchmark() -> None:
    model, whose = whole_steps.client_model("n")
    assert "modules" in whose
    taken = whole_steps.seconds_of(whole_steps.Step(model.train(), PLAN, 2, False), PLAN)
    assert {len(seconds) for seconds in taken.values()} == {PLAN.turns}
