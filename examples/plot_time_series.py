"""
Carbon dioxide above Mauna Loa: SciPy's minimize with another method
====================================================================

A curve through 44 years of weekly measurements, and a band that holds nine of ten of them. The
sum of absolute values that has both as its minimum is full of kinks, and the widths of the band
are exponentials, so it is not a linear program. Your code stays as it is, and only ``method=``
changes. L-BFGS-B, which is meant for smooth functions, ends a little above the minimum here, but
after a tenth of the evaluations; Nelder and Mead's method is lost among sixteen numbers.
"""

from itertools import accumulate

import autograd.numpy as np
import matplotlib.pyplot as plt
from scipy import optimize
from statsmodels.datasets import co2

from adam_any import interop, rules, schedules

plt.style.use("tableau-colorblind10")

series = co2.load_pandas().data["co2"].dropna()
years = 1958 + (series.index - series.index[0]).days.to_numpy() / 365.25 + 0.24
measured = series.to_numpy()

# %%
# A cubic and two harmonics of the year, which may grow: 12 numbers. Two more for each side of the
# band, whose widths are positive whatever they are. Three quantiles, one pinball loss for each.


def curves(x, years=years):
    u, angle = (years - 1980) / 22, 2 * np.pi * years
    waves = [np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)]
    middle = sum(x[i] * u**i for i in range(4))
    middle = middle + sum((x[4 + i] + x[8 + i] * u) * wave for i, wave in enumerate(waves))
    below, above = np.exp(x[12] + x[13] * u), np.exp(x[14] + x[15] * u)
    return middle - below, middle, middle + above


def loss(x):
    total = 0
    for quantile, curve in zip((0.05, 0.5, 0.95), curves(x), strict=True):
        off = measured - curve
        total = total + np.mean(np.maximum(quantile * off, (quantile - 1) * off))
    return total


# %%
# The gradient is HIPS autograd's. Each method begins at the mean, and all it is told is noted.

fun, steps = interop.value_and_grad(loss), 1000
start = np.array([measured.mean(), *15 * [0.0]])
adam = interop.scipy_method(rules.Adam(schedules.cosine(1.0, 0, steps=steps)))
found, ways = {}, {}
for name in ("adam_any", "L-BFGS-B", "Nelder-Mead"):
    way, simplex = ways.setdefault(name, []), name == "Nelder-Mead"

    def noted(x, way=way, simplex=simplex):
        told = loss(x) if simplex else fun(x)
        way.append(told if simplex else told[0])
        return told

    found[name] = optimize.minimize(
        noted,
        start,
        jac=not simplex,
        method=adam if name == "adam_any" else name,
        options={"maxiter": 4000 if simplex else steps},
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
recent = np.linspace(1990, 2002, 1200)
below, middle, above = curves(found["adam_any"].x, recent)
left.fill_between(recent, below, above, color="C0", alpha=0.4, label="nine of ten")
left.plot(recent, middle, "C0", label="median")
left.plot(years[years > 1990], measured[years > 1990], "k.", ms=2, label="measured")
left.set(xlabel="year", ylabel="carbon dioxide (ppm)")
left.legend()
best = min(result.fun for result in found.values())
for name, way in ways.items():
    right.loglog(np.array([*accumulate(way, min)]) - best + 1e-7, label=name)
right.set(xlabel="evaluations", ylabel="best loss so far, above the best of all (ppm)")
right.legend()
plt.show()

below, _, above = curves(found["adam_any"].x)
inside = np.mean((below < measured) & (measured < above))
results = (f"{name} {r.fun:.6f} in {len(ways[name])} evaluations" for name, r in found.items())
print(f"{'; '.join(results)}. {100 * inside:.1f} % of the weeks are in the band.")
