"""Every client does a job by every route of the overlay that it has: same bits, and C in use."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from releases import CLIENTS, Client
from runs import MODULE, ROUTE_OF, ROUTES, Pair

# Short, and C has a part in it in every release: the later ultralytics fuse by themselves.
JOB = "detect, augmented"


def others(client: Client) -> list[str]:
    """The routes that test_jobs.py leaves out; ultralytics has no module that python could run."""
    return [
        name
        for name in ROUTES
        if name != ROUTE_OF[client.name] and (name != MODULE or client.package == "yolov5")
    ]


@pytest.mark.parametrize(
    ("name", "route"), [(name, route) for name in CLIENTS for route in others(CLIENTS[name])]
)
def test_route_is_equal_to_the_bit(
    pairs: Callable[[str], Pair], report: Callable[..., None], name: str, route: str
) -> None:
    client = CLIENTS[name]
    outcome = pairs(name).job(JOB, ROUTES[route])
    report(name, route, JOB, outcome)
    assert outcome.differences() == []
    assert outcome.stock.end["package"]["modules"] == []
    calls = outcome.ours.end["package"]["calls"]
    for needed, operation in (("scale_img", "scale_img"), ("fuse_conv_and_bn", "fuse")):
        assert (calls[operation]["C"] > 0) == (needed in client.hot)
        assert calls[operation]["torch"] == 0
