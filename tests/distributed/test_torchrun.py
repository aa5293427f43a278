"""Whole programs under torchrun: the example, two hosts, a rank that dies."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .ranks import ROOT, environment

pytestmark = pytest.mark.slow
LIMIT_S = 150
PROGRAM = ROOT / "tests/distributed/on_hosts.py"
HOSTS = ("y5one", "y5two")
ADDRESSES = ("10.117.5.1", "10.117.5.2")


def torchrun(*arguments: object, inside: str = "", device: str = "lo") -> subprocess.Popen[str]:
    """torchrun, in a network namespace where one is named."""
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)]
    return subprocess.Popen(
        ["ip", "netns", "exec", inside, *command] if inside else command,
        cwd=ROOT,
        env={**environment(), "GLOO_SOCKET_IFNAME": device},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def outcomes(*runs: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """Exit code and output of each; whoever is not done in time is ended, and so are its ranks."""
    try:
        said = [run.communicate(timeout=LIMIT_S)[0] for run in runs]
        return [(run.returncode, text) for run, text in zip(runs, said, strict=True)]
    finally:
        for run in runs:
            run.terminate()  # torchrun ends its ranks then, which are in sessions of their own
        for run in runs:
            try:
                run.communicate(timeout=LIMIT_S)
            except (subprocess.TimeoutExpired, ValueError):  # it hangs; or was read to its end
                run.kill()


def free_port() -> int:
    with socket.socket() as probed:
        probed.bind(("127.0.0.1", 0))
        port: int = probed.getsockname()[1]
        return port


def network(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=LIMIT_S)


@pytest.fixture
def hosts() -> Iterator[list[dict[str, str]]]:
    """Two network namespaces with a cable between them: as two machines for torch.distributed."""
    try:
        for host in HOSTS:
            network("netns", "add", host)
        network("link", "add", HOSTS[0], "type", "veth", "peer", "name", HOSTS[1])
        for host, address in zip(HOSTS, ADDRESSES, strict=True):
            network("link", "set", host, "netns", host)
            network("-n", host, "addr", "add", f"{address}/24", "dev", host)
            for device in (host, "lo"):
                network("-n", host, "link", "set", device, "up")
        yield [{"inside": host, "device": host} for host in HOSTS]
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces can be made here: {error}")
    finally:
        for host in HOSTS:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):  # not made
                network("netns", "delete", host)


def run_on_two_hosts(folder: Path, address: str, places: list[dict[str, str]]) -> None:
    rendezvous = ("--nnodes", 2, "--nproc-per-node", 1, "--master-addr", address)
    port = free_port()
    runs = [
        torchrun(
            *(*rendezvous, "--master-port", port, "--node-rank", number),
            *(PROGRAM, folder, "average"),
            **place,
        )
        for number, place in enumerate(places)
    ]
    for code, said in outcomes(*runs):
        assert code == 0, said
    found = {file.name: file.read_text() for file in folder.iterdir()}
    assert found == {"rank 0": "2 entries, 0", "rank 1": "0 entries, 0"}  # both are local rank 0


def test_two_network_namespaces(hosts: list[dict[str, str]], tmp_path: Path) -> None:
    run_on_two_hosts(tmp_path, ADDRESSES[0], hosts)


def test_two_launchers_on_loopback(tmp_path: Path) -> None:
    run_on_two_hosts(tmp_path, "127.0.0.1", [{}, {}])


def test_a_rank_that_dies_ends_the_run(tmp_path: Path) -> None:
    ((code, said),) = outcomes(
        torchrun("--standalone", "--nproc-per-node", 2, PROGRAM, tmp_path, "dies")
    )
    assert code != 0
    assert "exitcode  : 3" in said
    assert list(tmp_path.iterdir()) == []


def test_the_example(tmp_path: Path) -> None:
    """Trains on two ranks, goes on with one, and leaves what one process can load."""
    pytest.importorskip("numpy", reason="the demo draws with numpy")
    for processes, updates in ((2, 2), (1, 6)):
        ((code, said),) = outcomes(
            torchrun(
                *("--standalone", "--nproc-per-node", processes, "-m", "examples.train_fsdp2"),
                *("--output", tmp_path, "--epochs", 1, "--pictures", 64),
            )
        )
        assert code == 0, said
        assert f"{updates} updates: loss " in said
    best = torch.load(tmp_path / "best.pt", weights_only=False)
    assert best["updates"] == 6
    assert best["ema"].names == ["circle", "square", "triangle"]
    assert best["ema"](torch.zeros(1, 3, 96, 96).half()).isfinite().all()
