"""One CPU device whatever the machine has, so that every number is the same everywhere."""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
