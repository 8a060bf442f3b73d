"""What the tests share: libraries, oracles, numbers, optimizers and rules."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
