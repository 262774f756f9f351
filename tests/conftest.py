"""One CPU device whatever the machine has, so that every number is the same everywhere."""

from __future__ import annotations

import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"

# A shell makes what it starts in the background deaf to Ctrl-C, and so would be the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
