"""Where the soak looks for the oracle until it moves to tests/stress/."""

from tests.helpers.oracle import *  # noqa: F403
