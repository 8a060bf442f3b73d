"""What a test needs of the operating system, and why it is skipped elsewhere."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this system has no /proc"
)
needs_limits = pytest.mark.skipif(
    importlib.util.find_spec("resource") is None, reason="this system limits no process"
)
needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system binds no process to processors"
)
needs_posix_files = pytest.mark.skipif(
    os.name != "posix", reason="this system has other permissions, links and pipes"
)
