"""`python -m bench.first_step`: seconds from `import adam_any` to the end of the first step.

NumPy is imported before, since whoever has arrays has imported it. Prints one number.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np


def main() -> None:
    """Step a million elements once."""
    p, g = np.ones(1_000_000, np.float32), np.ones(1_000_000, np.float32)
    start = perf_counter()
    from adam_any import Adam

    Adam(p).step(g)
    print(perf_counter() - start)


if __name__ == "__main__":
    main()
