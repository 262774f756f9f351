"""The environment of a process that sees several CPU devices."""

from __future__ import annotations

import os


def seeing(devices: int) -> dict[str, str]:
    """As that of the tests, whose programs are compiled quickly and run once."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "NPROC": "32"}  # with fewer threads than devices XLA waits for itself
