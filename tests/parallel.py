"""How several processes (``pytest -n 2``) share the tests: whole files, and files that share something costly together.

A file keeps its order, and what it makes is made once. The longest work is handed out first, so that no process has
much left when the others are done.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

TOGETHER = {
    "fits of the benchmarks": ("test_tokenizer_benchmarks.py",),
    "PostgreSQL and forked processes": (
        "distributed/",
        "training/test_pipeline.py",
        "training/test_loop.py",
        "faults/test_catalog_processes.py",
        "faults/test_event_processes.py",
        "service/test_serving.py",
        "service/catalog/",
        "service/events/",
    ),
    "Ray": ("training/test_ray_train.py", "sidera/jobs/"),
}
"""Files, and folders that end with a slash, under ``tests``: each group goes to one process, in this order. Ray gives
up where it does not start within 30 seconds, so it is not among the first, which import everything anew.
"""


def group_of(nodeid: str) -> str:
    """The group of a test, or its file where that stands for itself."""
    file = nodeid.partition("::")[0]
    place = file.removeprefix("tests/")
    for name, places in TOGETHER.items():
        if any(place.startswith(one) if one.endswith("/") else place == one for one in places):
            return name
    return file


def groups_first(items: list[pytest.Item]) -> None:
    """Order tests as they are handed out."""
    names = list(TOGETHER)
    items.sort(key=lambda item: names.index(group) if (group := group_of(item.nodeid)) in TOGETHER else len(names))


class GroupScheduling(LoadFileScheduling):  # type: ignore[misc]
    """Hands out groups in the order of the tests."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
