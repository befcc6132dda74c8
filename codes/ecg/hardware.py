"""The machine that a number was measured on, and how much of it may be used."""

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any


def cores() -> int:
    """Return how many threads to use: the processors this process may run on, but no more than OMP_NUM_THREADS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(allowed, int(limit)) if limit.isdigit() and int(limit) > 0 else allowed


def machine() -> dict[str, Any]:
    """Return what a number was measured on: processor, versions, date."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():  # Linux leaves platform.processor() empty
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    versions = {"python": platform.python_version()} | {
        name: version(name) for name in ("numpy", "torch", "scikit-learn")
    }
    return {"hardware": f"{cpu}, {os.cpu_count()} cores", "versions": versions, "date": date.today().isoformat()}
