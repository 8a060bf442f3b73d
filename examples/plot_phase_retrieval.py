"""
The phase of a transparent cell
===============================

A cell in salt water absorbs nothing: it only delays light, which no camera sees. A little out of
focus the delay shows up as rings, and from three such pictures it can be computed. The unknown is a
complex image with a modulus of 1, which is restored after each step. Gerchberg and Saxton's
algorithm, which is what one would use, needs no learning rate, and has the same data.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data, transform

from adam_any import Optimizer, rules, schedules

plt.style.use("tableau-colorblind10")

# %%
# The cell comes with scikit-image, where its phase was measured with a hologram. Light that spreads
# over a distance is a product in Fourier space; distances are in squared pixels per wavelength.

n, steps = 256, 200
image = transform.resize(data.cell()[55:605].astype(float), (n, n), anti_aliasing=True)
truth = np.exp(1j * (image - np.median(image)) / 75)
frequency = np.fft.fftfreq(n)
squares = frequency[:, None] ** 2 + frequency**2
spread = np.exp(-1j * np.pi * np.array([10, 40, 160])[:, None, None] * squares)


def propagate(wave):
    return np.fft.ifft2(np.fft.fft2(wave) * spread)


def back(waves):  # the adjoint, and but for a factor of 3 the inverse
    return np.fft.ifft2((np.fft.fft2(waves) * spread.conj()).sum(0))


photons = np.random.default_rng(0).poisson(2000 * abs(propagate(truth)) ** 2)
measured = np.sqrt(photons / 2000)


def error(wave):  # root mean square in radians, where a constant does not count
    turned = wave * truth.conj()
    return np.sqrt(np.mean(np.angle(turned * np.exp(-1j * np.angle(turned.sum()))) ** 2))


# %%
# The gradient of the squared misfit of amplitudes, without its part along the modulus. After each
# step the parameters are put back onto the circle: that is what ``optimizer.params = ...`` is for.

wave, way = np.ones((n, n), complex), []
optimizer = Optimizer(wave, rules.Adam(schedules.cosine(0.3, 0, steps=steps)))
for _ in range(steps):
    waves = propagate(wave)
    gradient = back(2 * (waves - measured * np.exp(1j * np.angle(waves))))
    gradient -= (gradient * wave.conj()).real * wave
    wave = optimizer.step(gradient)
    optimizer.params = wave / abs(wave)
    way.append(error(wave))

# %%
# Gerchberg and Saxton: measured amplitudes in the cameras, a modulus of 1 in the cell.

wave_gs, way_gs = np.ones((n, n), complex), []
for _ in range(steps):
    wave_gs = back(measured * np.exp(1j * np.angle(propagate(wave_gs))))
    wave_gs /= abs(wave_gs)
    way_gs.append(error(wave_gs))

# %%
cell = np.s_[84:212, 128:256]
figure, axes = plt.subplots(2, 3, figsize=(9, 6.4), layout="constrained")
for ax, photo, name in zip(axes[0], photons, ("close", "farther", "far"), strict=True):
    counts = ax.imshow(photo[cell], "gray", vmin=500, vmax=4000)
    ax.set_title(f"Out of focus, {name}")
found = {"Gerchberg-Saxton": wave_gs, "adam_any": wave, "The cell": truth}
for ax, (name, x) in zip(axes[1], found.items(), strict=True):
    turned = np.angle(x * np.exp(-1j * np.angle(np.median(x))))
    phase = ax.imshow(turned[cell], "cividis", vmin=-1, vmax=2.5)
    ax.set_title(name)
figure.colorbar(counts, ax=axes[0], label="photons")
figure.colorbar(phase, ax=axes[1], label="phase (radians)")
for ax in axes.flat:
    ax.axis("off")

# %%
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
ax.plot(way, label="adam_any")
ax.plot(way_gs, label="Gerchberg-Saxton")
ax.set(xlabel="iterations", ylabel="error of the phase (radians)", ylim=(0, None))
ax.legend()
plt.show()

print(
    f"After {steps} iterations: adam_any {way[-1]:.3f} radians, Gerchberg-Saxton {way_gs[-1]:.3f}."
)
