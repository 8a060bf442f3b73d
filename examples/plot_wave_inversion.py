"""
What is between two wells: inversion of waves
=============================================

Sound from seven places in the left well is heard in the right well. How fast it goes where nobody
has drilled follows from all that is heard, by 200 steps of the wave equation forwards and 200 of
its adjoint backwards, which is written here by hand: the same lines, read from below. No noise is
in such a gradient, so beside Adam there is Rprop, one word away. L-BFGS-B is better still.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from scipy import optimize
from scipy.ndimage import gaussian_filter

from adam_any import minimize, rules, schedules

plt.style.use("tableau-colorblind10")

# %%
# Cells of 10 m and steps of 2 ms. It becomes faster with depth; a fast and a slow body lie between
# the wells. On each side are eight more cells, in which the layers go on and waves are swallowed.

height, width, edge, steps, budget = 64, 48, 8, 200, 40
depth, across = np.mgrid[:height, :width]
layers = (2000 + 6 * depth).astype("float32")  # metres a second
truth = layers + 300 * ((depth - 18) ** 2 + (across - 24) ** 2 < 9**2)
truth -= 300 * (((depth - 45) / 6) ** 2 + ((across - 25) / 12) ** 2 < 1)
shots, ears = np.arange(4, height, 9) + edge, np.arange(height) + edge
phase = (np.pi * 15 * (np.arange(steps) * 0.002 - 0.08)) ** 2
wavelet = (1 - 2 * phase) * np.exp(-phase)
near = np.pad(np.ones_like(layers), edge, "linear_ramp")
damping = np.exp(-((0.2 * (1 - near)) ** 2)).astype("float32")


def laplacian(u):  # with zeros around it, it is symmetric
    out = -4 * u
    out[:, 1:] += u[:, :-1]
    out[:, :-1] += u[:, 1:]
    out[:, :, 1:] += u[:, :, :-1]
    out[:, :, :-1] += u[:, :, 1:]
    return out


def listen(speed):
    padded = np.pad(layers, edge, "edge")
    padded[edge:-edge, edge:-edge] = speed
    courant = (padded * (0.002 / 10)) ** 2
    before = np.zeros((len(shots), *near.shape), "float32")
    now, heard, curved = before.copy(), [], []
    for amplitude in wavelet:
        curved.append(laplacian(now))
        before, now = now, damping * (2 * now - damping * before + courant * curved[-1])
        now[range(len(shots)), shots, edge] += amplitude
        heard.append(now[:, ears, -edge - 1])
    return np.array(heard), curved, courant


def fun(speed):
    heard, curved, courant = listen(speed)
    misfit, total = heard - measured, 0
    now = np.zeros_like(curved[0])
    before = now.copy()
    for residual, curve in zip(misfit[::-1], curved[::-1], strict=True):
        now[:, ears, -edge - 1] += residual
        now = damping * now
        total = total + (now * curve).sum(0)
        before, now = -damping * now, before + 2 * now + laplacian(courant * now)
    slope = 2 * total[edge:-edge, edge:-edge] * speed * (0.002 / 10) ** 2
    return 500 * (misfit.astype(float) ** 2).sum(), 1000 * slope


measured = listen(truth)[0]
measured += np.random.default_rng(0).normal(0, 0.02 * measured.max(), measured.shape)

# %%
# The wells are known, and so are 4 cells around them. What is looked for is smooth: a blurred
# image. Both are linear, and their adjoint is applied to the gradient.

unknown = (np.minimum(across, width - 1 - across) > 3).astype("float32")


def speed(x):
    return layers + gaussian_filter(x.reshape(layers.shape) * unknown, 2, mode="constant")


def smooth(x):
    value, slope = fun(speed(x.astype("float32")))
    way.append(np.sqrt(np.mean((speed(x) - truth) ** 2)))
    return value, (gaussian_filter(slope, 2, mode="constant") * unknown).reshape(x.shape)


adam = rules.Adam(schedules.cosine(200, 0, steps=budget), betas=(0.8, 0.9))
ways, found, seconds, zero = {}, {}, {}, np.zeros_like(layers)
for name in ("Adam", "Rprop", "L-BFGS-B"):
    began, way = time.perf_counter(), ways.setdefault(name, [])
    if name == "L-BFGS-B":
        options = {"maxfun": budget}
        result = optimize.minimize(smooth, zero.ravel(), jac=True, method=name, options=options)
    else:
        result = minimize(smooth, zero, adam if name == "Adam" else rules.Rprop(10), steps=budget)
    found[name], seconds[name] = speed(result.x), time.perf_counter() - began

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 4), layout="constrained", sharey=True)
for ax, (name, image) in zip(axes, (found | {"The truth": truth}).items(), strict=True):
    shown = ax.imshow(image, "cividis", vmin=1900, vmax=2500, extent=(0, 480, 640, 0))
    ax.set(title=name, xlabel="across (m)", xticks=[0, 200, 400])
axes[0].set(ylabel="depth (m)")
figure.colorbar(shown, ax=axes, label="speed (m/s)")
plt.show()

# %%
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
for name, way in ways.items():
    ax.plot(way, label=name)
ax.set(xlabel="evaluations", ylabel="error of the speed (m/s)")
ax.legend()
plt.show()
errors = (f"{name} {way[-1]:.0f} m/s in {seconds[name]:.1f} s" for name, way in ways.items())
print(f"From {ways['Adam'][0]:.0f} m/s in {budget} steps: {'; '.join(errors)}.")
