"""A Ray cluster on this machine that others could reach is refused; ``test_batch`` starts a real one."""

import importlib.util

import pytest

from sidera.errors import BatchError
from sidera.jobs.ray_session import import_ray, ray_session

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed"),
    pytest.mark.filterwarnings("ignore"),
]


def test_a_cluster_that_other_machines_could_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import_ray(None)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "192.0.2.7")
    with (
        pytest.raises(BatchError, match=r"Ray would listen on 192\.0\.2\.7, as it was imported before"),
        ray_session(1),
    ):
        pass
