"""The stand-in for a GPU: built once, in place for the tests that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from .stand_in import Record, StandIn, build, compiler, record_of, stand_in


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds a C file of this folder with definitions, once for each set of them."""
    if compiler() is None:
        pytest.skip("no C compiler")
    folder, made = tmp_path_factory.mktemp("cuda"), dict[tuple[str, ...], Path]()

    def make(source: str, *definitions: str) -> Path:
        key = (source, *definitions)
        if key not in made:
            made[key] = build(source, folder, *definitions)
        return made[key]

    return make


@pytest.fixture
def gpu(built: Callable[..., Path]) -> Iterator[Callable[[Path | None], StandIn]]:
    """A function that makes CPU tensors look like a GPU's for the rest of the test."""
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip(f"torch {torch.__version__} has no exchange table to stand in for")
    managers = []

    def start(library: Path | None) -> StandIn:
        manager = stand_in(built("stand_in.c"), library)
        managers.append(manager)
        return manager.__enter__()

    yield start
    for manager in reversed(managers):
        manager.__exit__(None, None, None)


@pytest.fixture
def faked(
    built: Callable[..., Path], gpu: Callable[[Path | None], StandIn]
) -> Callable[..., tuple[StandIn, Record]]:
    """faked("FAKE_..."): the stand-in, and the record of a fake library with these definitions."""

    def start(*definitions: str) -> tuple[StandIn, Record]:
        library = built("fake_library.c", *definitions)
        stand_in = gpu(library)
        return stand_in, record_of(library)

    return start
