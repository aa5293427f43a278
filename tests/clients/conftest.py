"""The environment and the three training runs that the tests compare; each is made once.

CLIENTS_ENV names the folder of the environment (default .venv-clients in the repository): keep it,
and only the first session has to install the client. PIP_ARGS are arguments for pip when it
installs torch, e.g. an index of CPU builds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from client import CANARY, OURS, ROOT, Environment, Job, Training


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = Path(os.environ.get("CLIENTS_ENV") or ROOT / ".venv-clients").resolve()
    environment = Environment(folder)
    environment.install(tmp_path_factory.mktemp("install"))
    return environment


@pytest.fixture(scope="session")
def job(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(environment, tmp_path_factory.mktemp("yolov5"))


@pytest.fixture(scope="session")
def stock(job: Job) -> Training:
    return job.train("stock")


@pytest.fixture(scope="session")
def ours(job: Job) -> Training:
    return job.train("ours", *OURS)


@pytest.fixture(scope="session")
def canary(job: Job) -> Training:
    return job.train("canary", *CANARY)
