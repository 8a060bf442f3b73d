"""
A photograph out of focus, photon by photon
===========================================

The photographer, blurred by a lens and counted in photons. Richardson and Lucy's iteration is what
everybody uses for such counts. It has to be stopped early, before it sharpens the noise, and
nothing but the picture that is wanted says when. With a penalty on the total variation the
likelihood has a minimum worth going to, and the run stops by itself.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import fft, special
from skimage import data, transform

from adam_any import Stop, minimize, rules, schedules

plt.style.use("tableau-colorblind10")

# %%
# The photograph comes with scikit-image. White is 2000 photons, which a disk of radius 4 pixels
# spreads; 5 more arrive everywhere. ``blur`` is symmetric, so it is its own adjoint.

n, background = 256, 5
truth = 2000 * transform.resize(data.camera(), (n, n), anti_aliasing=True).astype("float32")
row, column = np.mgrid[:n, :n] - n // 2
disk = fft.ifftshift(row**2 + column**2 <= 4**2).astype("float32")
transfer = fft.rfft2(disk / disk.sum()).real


def blur(image):
    return fft.irfft2(fft.rfft2(image) * transfer)


photons = np.random.default_rng(0).poisson(blur(truth) + background).astype("float32")


def quality(image):  # the peak signal-to-noise ratio in decibels
    return 10 * np.log10(2000**2 / np.mean((image - truth) ** 2))


# %%
# Richardson and Lucy's iteration, 100 times, from an even grey.

image, way_rl, best_rl = np.full((n, n), photons.mean()), [], None
for _ in range(100):
    image = image * blur(photons / (blur(image) + background))
    way_rl.append(quality(image))
    if way_rl[-1] == max(way_rl):
        best_rl = image

# %%
# The same likelihood with a penalty. ``kl_div`` is the negative logarithm of Poisson's, but for a
# constant, and its derivative is simple. Light is not negative: ``rules.Bounded``. The learning
# rate is the largest step of a pixel, in photons.


def fun(image):
    expected = blur(image) + background
    dx, dy = np.diff(image, axis=1, append=image[:, -1:]), np.diff(image, axis=0, append=image[-1:])
    length = np.sqrt(dx**2 + dy**2 + 1)
    divergence = np.diff(dx / length, axis=1, prepend=0) + np.diff(dy / length, axis=0, prepend=0)
    value = special.kl_div(photons, expected).sum() + 0.003 * length.sum()
    return value, blur(1 - photons / expected) - 0.003 * divergence


way = []
result = minimize(
    fun,
    photons,
    rules.Bounded(rules.Adam(schedules.exponential(80, 0.97)), lower=0),
    stop=Stop(change=1e-4),
    callback=lambda record: way.append(quality(record.params)),
)
print(result.message)

# %%
names = ["Photons", "Richardson-Lucy, at its best", "adam_any", "The photograph"]
figure, axes = plt.subplots(2, 2, figsize=(8, 8.4), layout="constrained")
for ax, name, image in zip(axes.flat, names, [photons, best_rl, result.x, truth], strict=True):
    ax.imshow(image[20:160, 50:190], "gray", vmin=0, vmax=2000)
    ax.set_title(name if image is truth else f"{name}: {quality(image):.1f} dB")
    ax.axis("off")

# %%
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
ax.plot(way, label="adam_any")
ax.plot(way_rl, label="Richardson-Lucy")
ax.set(xlabel="iterations", ylabel="signal-to-noise ratio (dB)")
ax.legend()
plt.show()

print(
    f"adam_any {quality(result.x):.2f} dB, after {result.nit} steps, where it stopped; "
    f"Richardson-Lucy {max(way_rl):.2f} dB, if stopped after {np.argmax(way_rl) + 1}, "
    f"and {way_rl[-1]:.2f} dB after {len(way_rl)}."
)
