"""The environment and the pairs of runs that the tests compare; each run is made once.

CLIENTS_ENV names the folder of the environment (default .venv-clients in the repository): keep it,
and only the first session has to install the clients. CLIENTS_PIP_ARGS are arguments for pip when
it installs torch. --table FILE writes the table of results between the file's markers.
--client NAME, as often as wanted, leaves out the tests of all other clients.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from environment import ROOT, TORCH, Environment
from releases import CLIENTS
from runs import ROUTE_OF, ROUTES, Outcome, Pair

NEWEST = "yolov5 7.0.14"
HEAD = ["client", "started by", "job", "bits equal", "compared", "calls in C", "stock s", "with s"]
MARKERS = ("<!-- clients: begin -->", "<!-- clients: end -->")
rows = pytest.StashKey[list[list[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--client", action="append", choices=CLIENTS, help="only tests of this client")
    parser.addoption("--table", type=Path, help="file to write the table of client runs into")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[rows] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of other clients; one that names none is the newest YOLOv5's."""
    wanted = config.getoption("client")
    if not wanted:
        return

    def client(item: pytest.Item) -> str:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return parameters.get("name", NEWEST)

    config.hook.pytest_deselected(items=[item for item in items if client(item) not in wanted])
    items[:] = [item for item in items if client(item) in wanted]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not config.stash[rows]:
        return
    order = list(CLIENTS)  # a file of tests brings rows of many clients
    lines = table(sorted(config.stash[rows], key=lambda row: order.index(row[0])))
    terminalreporter.section("client runs")
    for line in lines:
        terminalreporter.line(line)
    file = config.getoption("table")
    if file is not None:
        begin, end = MARKERS
        head, _, rest = file.read_text().partition(begin)
        _, _, tail = rest.partition(end)
        file.write_text("\n".join([f"{head}{begin}", *lines, f"{end}{tail}"]))


def table(found: list[list[str]]) -> list[str]:
    """The rows as Markdown, under a line that says what they were measured with."""
    load = os.getloadavg()[2]
    machine = (
        f"{', '.join(TORCH)}, CPU, one thread a run, both runs at the same time on two cores; "
        f"load in the last 15 minutes {load:.1f}, of which these runs are about 2."
    )
    return [
        machine,
        "",
        *("| " + " | ".join(row) + " |" for row in (HEAD, ["---"] * len(HEAD), *found)),
    ]


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Callable[..., None]:
    """Takes a client, a route, a job and its outcome down for the table."""

    def add(client: str, route: str, job: str, outcome: Outcome) -> None:
        pytestconfig.stash[rows].append(outcome.row(client, route, job))

    return add


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = Path(os.environ.get("CLIENTS_ENV") or ROOT / ".venv-clients").resolve()
    environment = Environment(folder)
    environment.install(tmp_path_factory.mktemp("install"))
    return environment


@pytest.fixture(scope="session")
def pairs(
    environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Pair]:
    """The pair of desks of a client by name, on the route that is its own."""
    made: dict[str, Pair] = {}

    def pair(name: str) -> Pair:
        if name not in made:
            work = tmp_path_factory.mktemp(name.replace(" ", "-"))
            made[name] = Pair(environment, CLIENTS[name], ROUTES[ROUTE_OF[name]], work)
        return made[name]

    return pair


@pytest.fixture(scope="session")
def newest(pairs: Callable[[str], Pair]) -> Pair:
    """The pair of the newest YOLOv5, trained already."""
    pair = pairs(NEWEST)
    pair.job("train")
    return pair
