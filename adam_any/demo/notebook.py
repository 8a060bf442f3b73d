"""The experiment of the notebook that this package grew from, compared with its printed output.

The notebook is a Jupyter notebook with an Adam written by hand in NumPy. It minimises
m^2 - 2m + 1 for a weight and a bias, and prints the weight after each iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

import numpy as np

from ..adam import Adam
from .places import Place

#: The weights printed in the notebook for iterations 257 to 280, digit for digit.
NOTEBOOK_FIRST = 257
# fmt: off
NOTEBOOK = (
    0.9983202346112277, 0.9983944097882684, 0.9984656928634669, 0.998534181613794,
    0.9985999710648938, 0.9986631535490955, 0.9987238187628614, 0.9987820538236523,
    0.9988379433261909, 0.9988915693981099, 0.9989430117549652, 0.9989923477546039,
    0.9990396524508698, 0.9990849986466379, 0.9991284569461627, 0.9991700958067327,
    0.9992099815896199, 0.9992481786103167, 0.9992847491880505, 0.9993197536945726,
    0.9993532506022106, 0.9993852965311832, 0.999415946296171, 0.9994452529521384,
)
# fmt: on
NOTEBOOK_LAST = NOTEBOOK_FIRST + len(NOTEBOOK) - 1
DEVIATION_ALLOWED = 1e-14
ERROR_ALLOWED = 1e-12  # of weight and bias at the end; the minimum is at 1
MOST_ITERATIONS = 2_000  # 746 are enough
MOST = {"dask": NOTEBOOK_LAST}  # it takes 10 to 20 ms a step, even for single numbers


class Descent(NamedTuple):
    """The outcome of the notebook's experiment."""

    iterations: int
    converged: bool
    weight: float
    bias: float
    #: The largest difference from the weights in the notebook; NaN if there was a NaN.
    deviation: float

    @property
    def failure(self) -> str | None:
        """A sentence about what is wrong, or None."""
        if not self.deviation <= DEVIATION_ALLOWED:
            return (
                f"weight or bias deviates by {self.deviation:.1e} from the weights in the notebook "
                f"(up to {DEVIATION_ALLOWED:.0e} is allowed)"
            )
        if not self.converged:
            stopped = self.iterations < MOST_ITERATIONS
            return None if stopped else f"not converged after {self.iterations} iterations"
        if not all(abs(x - 1) <= ERROR_ALLOWED for x in (self.weight, self.bias)):  # not for NaN
            return f"weight {self.weight!r} and bias {self.bias!r} should both end at 1"
        return None


def descend(place: Place) -> Descent:
    """Minimise m^2 - 2m + 1 from 0 in float64, until the weight stops changing.

    With Dask the run ends at the last iteration that is compared, to save time.

    In the notebook the bias became NaN at the first step, since its gradient was not squared. Its
    gradient and its start are those of the weight, so here it must take the same values.
    """
    with _settings(place.library):
        params = {name: place.array(0.0, "float64") for name in ("weight", "bias")}
        opt, path = Adam(params, lr=0.01), [(0.0, 0.0)]
        for iteration in range(1, MOST.get(place.library, MOST_ITERATIONS) + 1):
            params = opt.step({name: 2 * m - 2 for name, m in params.items()})
            path.append((float(params["weight"]), float(params["bias"])))
            converged = path[-1][0] == path[-2][0]
            if converged and iteration >= NOTEBOOK_LAST:
                break
    printed = np.asarray(path[NOTEBOOK_FIRST : NOTEBOOK_LAST + 1]).T
    deviation = float(np.max(np.abs(printed - NOTEBOOK)))
    return Descent(iteration, converged, *path[-1], deviation)


@contextmanager
def _settings(library: str) -> Iterator[None]:
    """Apply the settings that a library needs for the experiment."""
    if library == "jax":  # which has no float64 unless this is set
        # The flag is in 0.5 and in 0.10; the context manager for it has changed in between.
        config = import_module("jax").config
        before = config.jax_enable_x64
        config.update("jax_enable_x64", True)
        try:
            yield
        finally:
            config.update("jax_enable_x64", before)
    elif library == "dask":  # for single numbers its threads only cost time
        with import_module("dask").config.set(scheduler="synchronous"):
            yield
    else:
        yield
