"""A Ray cluster to work on: one that is there, or one on this machine that no other machine can reach.

The one on this machine listens on the loopback device alone, and has no dashboard; usage statistics are off in both.
Ray is imported here and not before, since it reads its environment then.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sidera.errors import BatchError

_NO_STATISTICS = "RAY_USAGE_STATS_ENABLED"
_NO_OTHER_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where it is 0, Ray takes 127.0.0.1 for this machine's address, on Linux too. ``_node_ip_address="127.0.0.1"`` does
not: Ray puts the outward address in its place, and binds to all."""

_LOOPBACK = "127.0.0.1"
_NEW = "local"
"""Without it Ray would join a cluster that somebody has started on this machine."""


def import_ray(address: str | None) -> Any:
    """The package ``ray``, for a cluster at an address, or for one on this machine.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    os.environ[_NO_STATISTICS] = "0"
    if address is None:
        os.environ[_NO_OTHER_MACHINES] = "0"
    import ray

    return ray


@contextmanager
def ray_session(cpus: int, address: str | None = None) -> Iterator[Any]:
    """Within: the package ``ray``, connected.

    Args:
        cpus: of the cluster that is started on this machine.
        address: of a cluster, such as ``auto``; None: one is started on this machine.

    Raises:
        BatchError: other machines could reach the one on this machine, since Ray was imported before.
    """
    ray = import_ray(address)
    here: dict[str, Any] = {}
    if address is None:
        if (own := ray.util.get_node_ip_address()) != _LOOPBACK:
            raise BatchError(
                f"Ray would listen on {own}, as it was imported before {_NO_OTHER_MACHINES}=0 was set; set it before "
                "this program starts, or give the address of a cluster"
            )
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        here = {
            "num_cpus": cpus,
            "include_dashboard": False,
            "runtime_env": {"env_vars": {"GLOO_SOCKET_IFNAME": loopback}},
        }
    ray.init(address=address or _NEW, log_to_driver=False, logging_level="ERROR", **here)
    try:
        yield ray
    finally:
        ray.shutdown()
