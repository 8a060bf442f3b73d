"""
Adam from its parts
===================

Adam is gradient descent with three things added to it. Here each is added in turn, on a valley that
is a hundred times as steep across as along, with gradients that are noisy.
"""

import matplotlib.pyplot as plt
import numpy as np

from adam_any import Optimizer, rules

plt.style.use("tableau-colorblind10")
steep = np.array([1.0, 100.0])
goal = np.array([0.0, 0.0])
start = np.array([-4.0, 1.0])


def gradient(x, random):
    return steep * (x - goal) + random.normal(0, 3, 2)


def walk(step, steps=120):
    random, x, path = np.random.default_rng(1), start.copy(), [start.copy()]
    for t in range(1, steps + 1):
        x = x - step(t, gradient(x, random))
        path.append(x.copy())
    return np.array(path)


# %%
# **Gradient descent** must take steps that are short enough for the steep direction, and so creeps
# along the flat one.

ways = {"gradient descent": walk(lambda t, g: 0.008 * g)}

# %%
# **A mean of the gradients**, with a short memory: what points now here, now there cancels, and
# what stays the same adds up.

m = np.zeros(2)


def averaged(t, g):
    global m
    m = m + 0.1 * (g - m)
    return 0.008 * m


ways["+ mean of the gradient"] = walk(averaged)

# %%
# **Divided by their size**: the root of the mean of squares. Each direction is measured in its own
# unit, so one learning rate fits all of them. But at first both means are too small, since they
# began at 0: that of the squares by more, so the first steps are three times too long.

m, v = np.zeros(2), np.zeros(2)


def scaled(t, g):
    global m, v
    m = m + 0.1 * (g - m)
    v = v + 0.001 * (g * g - v)
    return 0.15 * m / (np.sqrt(v) + 1e-8)


ways["+ divided by its size"] = walk(scaled)

# %%
# **Corrected for the start**: a mean that began at 0 has only ``1 - beta**t`` of its weight after
# ``t`` steps. Divided by that it is Adam.

m, v = np.zeros(2), np.zeros(2)


def corrected(t, g):
    global m, v
    m = m + 0.1 * (g - m)
    v = v + 0.001 * (g * g - v)
    return 0.15 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


ways["+ corrected for the start: Adam"] = walk(corrected)

# %%
# The same by the package, which has the formula once, and nothing else to remember:

random, x = np.random.default_rng(1), start.copy()
opt = Optimizer(x, rules.Adam(0.15))
for _ in range(120):
    opt.step(gradient(x, random))
assert np.allclose(x, ways["+ corrected for the start: Adam"][-1])

# %%
across, along = np.meshgrid(np.linspace(-6, 4, 200), np.linspace(-2, 2, 200))
height = 0.5 * (steep[0] * across**2 + steep[1] * along**2)
figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharex=True, sharey=True)
for ax, (name, way) in zip(axes.flat, ways.items(), strict=True):
    ax.contour(across, along, height, levels=np.logspace(-1, 2.5, 9), colors="0.8", linewidths=0.8)
    ax.plot(*way.T, ".-", linewidth=0.8, markersize=3)
    ax.plot(*goal, "*", color="black", markersize=10)
    ax.set(title=name, xlim=(-6, 4), ylim=(-2, 2))
figure.supxlabel("along the valley (curvature 1)")
figure.supylabel("across it (curvature 100)")
plt.show()

for name, way in ways.items():
    print(f"{name:32} ends {abs(way[-20:]).mean(0).round(2)} from the goal, along and across")
