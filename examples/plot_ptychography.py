"""
Ptychography: object, beam and positions at once
================================================

A narrow beam scans an object, and a camera counts what is diffracted. Out of it come the amplitude
and the phase of the object, those of the beam, and where the beam really was, since no stage moves
exactly. ePIE, the textbook's algorithm, takes the positions as they were meant; there are
extensions of it that do not.

All but the pictures is written for either library: for a GPU, ``import cupy as np``.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data, transform

from adam_any import Optimizer, rules, schedules

plt.style.use("tableau-colorblind10")
np.random.seed(0)  # CuPy's generators do not permute

# %%
# The photographer is the amplitude of the object, and coins are its phase. The beam is a soft disk
# with a curved phase. Each of 121 positions is off by up to 2 pixels in each direction.

n, size = 48, 144
images = [np.asarray(transform.resize(im, (size, size))) for im in (data.camera(), data.coins())]
truth = (0.3 + 0.7 * images[0]) * np.exp(2j * images[1])
radius = np.hypot(*(np.mgrid[:n, :n] - n // 2))
beam = 100 / (1 + np.exp(radius - 13)) * np.exp(0.01j * radius**2)
corners = np.stack(np.meshgrid(*2 * [np.arange(4, 95, 9)]), -1).reshape(-1, 2)
errors = np.random.uniform(-2, 2, corners.shape)

# %%
# ``diffract`` moves the beam by a fraction of a pixel, lays it on the object, and transforms.
# ``fun`` goes the same way back, and so has the gradients of all three unknowns.

pixels, frequency = np.arange(n), -2j * np.pi * np.fft.fftfreq(n)
along = frequency[:, None], frequency


def diffract(params, batch):
    shifts, corner = params["shifts"][batch, :, None, None], corners[batch, :, None, None]
    ramps = np.exp(shifts[:, 0] * along[0] + shifts[:, 1] * along[1])
    beams = np.fft.ifft2(np.fft.fft2(params["beam"]) * ramps)
    at = corner[:, 0] + pixels[:, None], corner[:, 1] + pixels
    patches = params["object"][at]
    return np.fft.fft2(beams * patches, norm="ortho"), beams, patches, ramps, at


def fun(params, batch):
    waves, beams, patches, ramps, at = diffract(params, batch)
    misfit = abs(waves) - measured[batch]
    slopes = np.fft.ifft2(2 * misfit * waves / (abs(waves) + 1e-9), norm="ortho")
    grads = {name: np.zeros_like(x) for name, x in params.items()}
    np.add.at(grads["object"], at, beams.conj() * slopes)
    spectra = np.fft.fft2(patches.conj() * slopes)
    grads["beam"] = np.fft.ifft2((spectra * ramps.conj()).sum(0))
    products = spectra * np.fft.fft2(beams).conj() / n**2
    slopes = [(products * ramp.conj()).real.sum((1, 2)) for ramp in along]
    grads["shifts"][batch] = np.stack(slopes, -1)
    return (misfit**2).sum(), grads


waves = diffract({"object": truth, "beam": beam, "shifts": errors}, np.s_[:])[0]
measured = np.sqrt(np.random.poisson(abs(waves) ** 2))

# %%
# Each unknown has its rule. A step sees 11 positions; where none of them lights the object, the
# gradient is exactly 0, and ``rules.Masked`` counts the steps of each pixel and each position by
# itself. The positions join in slowly: before there is an object, they know nothing.

epochs, batches = 80, 11
steps = epochs * batches
later = schedules.warmup(schedules.cosine(0.1, 0, steps=steps * 7 // 10), steps * 3 // 10)
rule = {
    "object": rules.Masked(rules.Adam(schedules.cosine(0.1, 0, steps=steps))),
    "beam": rules.Adam(schedules.cosine(2.0, 0, steps=steps)),
    "shifts": rules.Masked(rules.Adam(later)),
}
guess = np.where(radius < 15, np.sqrt((measured**2).sum() / len(corners) / (np.pi * 15**2)), 0) + 0j
params = {"object": np.ones_like(truth), "beam": guess.copy(), "shifts": np.zeros_like(errors)}
optimizer, way = Optimizer(params, rule), []
for _ in range(epochs):
    way.append(0)
    for batch in np.array_split(np.random.permutation(len(corners)), batches):
        value, grads = fun(params, batch)
        params = optimizer.step(grads)
        way[-1] += value

# %%
# ePIE: one position after another, with the modulus corrected, for as many rounds.

image, probe, way_epie = np.ones_like(truth), guess.copy(), []
for _ in range(epochs):
    way_epie.append(0)
    for i in np.random.permutation(len(corners)):
        patch = image[corners[i, 0] : corners[i, 0] + n, corners[i, 1] : corners[i, 1] + n]
        wave = np.fft.fft2(probe * patch, norm="ortho")
        way_epie[-1] += ((abs(wave) - measured[i]) ** 2).sum()
        right = measured[i] * wave / (abs(wave) + 1e-9)
        change, old = np.fft.ifft2(right, norm="ortho") - probe * patch, patch.copy()
        patch += probe.conj() / (abs(probe) ** 2).max() * change
        probe = probe + old.conj() / (abs(old) ** 2).max() * change

# %%
# The object, where it was lit. Its scale and its constant phase cannot be known.

found = {"ePIE": image, "adam_any": params["object"], "The object": truth}
similar, inner = {}, np.s_[20:-20, 20:-20]
bare = {"xticks": [], "yticks": []}
figure, axes = plt.subplots(2, 3, figsize=(9, 6.4), layout="constrained", subplot_kw=bare)
for (name, x), (top, bottom) in zip(found.items(), axes.T, strict=True):
    x = x[inner] * np.vdot(x[inner], truth[inner]) / np.vdot(x[inner], x[inner])
    similar[name] = np.corrcoef(abs(x).ravel(), abs(truth[inner]).ravel())[0, 1]
    shown = top.imshow(abs(x), "gray", vmin=0.3, vmax=1)
    phase = bottom.imshow(np.angle(x), "cividis", vmin=0, vmax=2)
    top.set_title(name)
figure.colorbar(shown, ax=axes[0], label="amplitude")
figure.colorbar(phase, ax=axes[1], label="phase (radians)")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.semilogy(np.transpose([way, way_epie]), label=["adam_any", "ePIE"])
left.set(xlabel="rounds", ylabel="squared misfit of amplitudes")
left.legend()
offset = params["shifts"] - errors
offset -= offset.mean(0)  # where all of it lies cannot be known
right.plot(*corners.T, "k+", label="meant")
right.plot(*(corners + errors).T, "o", mfc="none", label="true")
right.plot(*(corners + errors + offset).T, ".", label="found")
right.set(xlabel="row (pixels)", ylabel="column (pixels)", aspect="equal")
right.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

print(
    f"adam_any: amplitude correlates by {similar['adam_any']:.4f} with the truth, positions off by "
    f"{np.median(abs(offset)):.2f} pixels, {np.median(abs(errors)):.2f} before; "
    f"ePIE: {similar['ePIE']:.4f}."
)
