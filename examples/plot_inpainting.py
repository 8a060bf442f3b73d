"""
Inpainting: four pixels of five are missing
===========================================

An astronaut, of whose portrait a fifth of the pixels is left. The others are filled in so that the
picture bends in few places: the sum of its second derivatives' lengths becomes small, and that of
their squares is what scikit-image's biharmonic inpainting makes small. The mask needs nothing from
the optimizer. A gradient that is 0 moves nothing, not even by an ulp.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse
from skimage import data, restoration

from adam_any import minimize, rules, schedules

plt.style.use("tableau-colorblind10")

n = 256
truth = (data.astronaut()[:n, 96 : 96 + n] / 255).astype("float32")
missing = np.random.default_rng(0).random((n, n)) < 0.8
given = np.where(missing[..., None], truth[~missing].mean(0), truth)

# %%
# Second derivatives along rows, along columns, and mixed, as one sparse matrix.

one = sparse.eye_array(n)
first = sparse.diags_array([-np.r_[np.ones(n - 1), 0], np.ones(n - 1)], offsets=[0, 1])
second = -first.T @ first
parts = sparse.kron(second, one), sparse.kron(one, second), 2**0.5 * sparse.kron(first, first)
bend = sparse.vstack(parts, "csr").astype("float32")
unbend = bend.T.tocsr()

# %%
# The length of the derivatives of all colours at a pixel, rounded off below 0.03. Colours are
# between 0 and 1, which ``rules.Bounded`` sees to.


def fun(image):
    bends = (bend @ image.reshape(-1, 3)).reshape(3, -1, 3)
    length = np.sqrt((bends**2).sum((0, 2)) + 0.03**2)
    gradient = unbend @ (bends / length[:, None]).reshape(-1, 3)
    return length.sum(), gradient.reshape(image.shape) * missing[..., None]


def quality(image):  # the peak signal-to-noise ratio of what was missing, in decibels
    return -10 * np.log10(np.mean((image - truth)[missing] ** 2))


clock, way = [time.perf_counter()], []
result = minimize(
    fun,
    given,
    rules.Bounded(rules.Adam(schedules.cosine(0.05, 0, steps=120)), 0, 1),
    steps=120,
    callback=lambda record: way.append(quality(record.params)),
)
clock.append(time.perf_counter())
biharmonic = restoration.inpaint_biharmonic(given, missing, channel_axis=-1)
clock.append(time.perf_counter())
assert (result.x[~missing] == truth[~missing]).all()

# %%
holes = np.where(missing[..., None], 0, truth)
names = "What is left", "Biharmonic", "adam_any", "The portrait"
figure, axes = plt.subplots(2, 2, figsize=(8, 8.4), layout="constrained")
for ax, name, x in zip(axes.flat, names, (holes, biharmonic, result.x, truth), strict=True):
    ax.imshow(np.clip(x, 0, 1))
    ax.set_title(name if x is truth or x is holes else f"{name}: {quality(x):.2f} dB")
    ax.axis("off")

# %%
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
ax.plot(way, label="adam_any")
ax.axhline(quality(biharmonic), color="C1", label="Biharmonic, one linear system")
ax.set(xlabel="steps", ylabel="signal-to-noise ratio (dB)")
ax.legend()
plt.show()

print(
    f"adam_any {quality(result.x):.2f} dB in {clock[1] - clock[0]:.1f} s; "
    f"biharmonic {quality(biharmonic):.2f} dB in {clock[2] - clock[1]:.1f} s."
)
