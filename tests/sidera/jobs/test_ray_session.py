"""A Ray cluster on this machine, and who can reach it."""

import importlib.util

import psutil  # type: ignore[import-untyped]
import pytest

from sidera.errors import BatchError
from sidera.jobs.ray_session import import_ray, ray_session

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed"),
    pytest.mark.filterwarnings("ignore"),
]


def addresses_listened_on() -> set[str]:
    """Where this process and those that it started accept connections."""
    own = psutil.Process()
    sockets = [socket for process in (own, *own.children(recursive=True)) for socket in process.net_connections("tcp")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


def test_a_cluster_on_this_machine_listens_on_the_loopback_device_alone() -> None:
    with ray_session(1):
        assert addresses_listened_on() <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert addresses_listened_on()


def test_a_cluster_that_other_machines_could_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import_ray(None)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "192.0.2.7")
    with (
        pytest.raises(BatchError, match=r"Ray would listen on 192\.0\.2\.7, as it was imported before"),
        ray_session(1),
    ):
        pass
