"""What benchmarks.bench_cuda_host says of the host's time: each part of an update, in order."""

from __future__ import annotations

import pytest
import torch

from benchmarks import bench_cuda_host, models

from .stand_in import compiler


@pytest.fixture
def measurable() -> None:
    if compiler() is None:
        pytest.skip("no C compiler")
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip(f"torch {torch.__version__} has no exchange table to stand in for")


def test_parts_make_up_the_call(measurable: None) -> None:
    whole, parts = bench_cuda_host.tables(["n"], 0.1)
    package, _ = whole.rows
    assert package["tensors"] == models.EXPECTED["n"].float_entries
    assert [row["caches"] for row in parts.rows] == ["cold", "hot"]
    for row in parts.rows:
        each = [row["guards"], row["walk"], *(row[part] for part in bench_cuda_host.PARTS[1:])]
        assert min(each) >= 0
        assert sum(each) == pytest.approx(row["all"], rel=0.3)
        assert max(each) in (row["walk"], row["borrow"])


def test_without_a_compiler_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cuda_host, "compiler", lambda: None)
    for table in bench_cuda_host.tables(["n"], 0.1):
        assert (table.rows, table.notes) == ([], ["no C compiler: not measured"])
