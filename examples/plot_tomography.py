"""
Tomography from thirty views
============================

A slice of a head, seen from 30 directions where filtered back-projection wants about 400. What is
missing is put in as knowledge: no tissue has a negative density (``rules.Bounded``), and tissue
comes in patches (a penalty on the total variation). L-BFGS-B gets the same function, bounds and
number of evaluations; it goes farther down, to a picture that is just as good.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cbook import get_sample_data
from scipy import optimize, sparse
from skimage.transform import iradon, radon

from adam_any import minimize, rules, schedules

plt.style.use("tableau-colorblind10")

# %%
# The slice comes with Matplotlib. scikit-image makes the views, not the matrix below that explains
# them: a real scanner does not know our model either.

n, angles = 256, np.arange(0, 180, 6)
with get_sample_data("s1045.ima.gz") as file:
    truth = np.frombuffer(file.read(), "<u2").reshape(n, n).astype("float32")
row, column = np.mgrid[:n, :n] - n // 2
truth = np.clip(truth / np.percentile(truth, 99.9), 0, 1) * (row**2 + column**2 < 127**2)
views = radon(truth, angles).T
views += np.random.default_rng(0).normal(0, 0.005 * views.max(), views.shape)
views = views.astype("float32")

# %%
# The matrix has a row for each ray; a pixel is shared by the two rays that it lies between.


def rays(angle):
    at = (np.cos(angle) * column - np.sin(angle) * row).ravel() + n // 2
    ray, pixel = np.floor(at).astype(int), np.arange(n * n)
    share, i, j = np.r_[1 - (at - ray), at - ray], np.r_[ray, ray + 1], np.r_[pixel, pixel]
    seen = (i >= 0) & (i < n)
    return sparse.csr_array((share[seen], (i[seen], j[seen])), (n, n * n))


project = sparse.vstack([rays(a) for a in np.deg2rad(angles)], "csr").astype("float32")
back = project.T.tocsr()

# %%
# The function returns its value and its gradient: half the squared misfit, and twice the total
# variation, rounded off below 0.01. It notes how good each image is that it is asked about.


def quality(image):  # the peak signal-to-noise ratio in decibels
    return -10 * np.log10(np.mean((image - truth) ** 2))


def fun(image):
    misfit = project @ image.ravel() - views.ravel()
    dx, dy = np.diff(image, axis=1, append=image[:, -1:]), np.diff(image, axis=0, append=image[-1:])
    length = np.sqrt(dx**2 + dy**2 + 0.01**2)
    divergence = np.diff(dx / length, axis=1, prepend=0) + np.diff(dy / length, axis=0, prepend=0)
    value = 0.5 * (misfit @ misfit) + 2 * length.sum()
    way.append((value, quality(image)))
    return value, (back @ misfit).reshape(n, n) - 2 * divergence


def flat(x):  # the same for SciPy
    value, gradient = fun(x.reshape(n, n).astype("float32"))
    return value, gradient.ravel()


filtered = np.maximum(iradon(views.T, angles, filter_name="hann"), 0).astype("float32")
way = []
rule = rules.Bounded(rules.Adam(schedules.cosine(0.1, 0, steps=60)), lower=0)
result = minimize(fun, filtered, rule, steps=60)
ours = np.array(way)
way = []
options = {"jac": True, "bounds": optimize.Bounds(0), "options": {"maxfun": 60}}
scipy = optimize.minimize(flat, filtered.ravel(), method="L-BFGS-B", **options)
lbfgs, found = np.array(way), scipy.x.reshape(n, n)

# %%
images = {"Filtered back-projection": filtered, "adam_any": result.x, "The slice itself": truth}
figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
for ax, (name, image) in zip(axes, images.items(), strict=True):
    ax.imshow(image, "gray", interpolation="nearest", vmin=0, vmax=0.9)
    ax.set_title(name + ("" if image is truth else f", {quality(image):.1f} dB"), fontsize=15)
    ax.axis("off")
if len(sys.argv) > 1:  # the README's picture
    figure.savefig(sys.argv[1], dpi=100)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name, way in {"adam_any": ours, "L-BFGS-B": lbfgs}.items():
    axes[0].semilogy(way[:, 0], label=name)
    axes[1].plot(way[:, 1])
axes[0].set(xlabel="evaluations", ylabel="value")
axes[1].set(xlabel="evaluations", ylabel="signal-to-noise ratio (dB)")
axes[0].legend()
plt.show()

print(
    f"adam_any {quality(result.x):.2f} dB, value {result.fun:.0f}, in {len(ours)} evaluations; "
    f"L-BFGS-B {quality(found):.2f} dB, value {scipy.fun:.0f}, in {len(lbfgs)}; "
    f"filtered back-projection {quality(filtered):.2f} dB."
)
