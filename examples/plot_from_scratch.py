"""
Adam from scratch, and the square that was forgotten
====================================================

A well-known exercise: write Adam in NumPy, and let it find the minimum of (w − 1)² from 0. The
notebook that this package began with does it, and says after 746 iterations that it has converged.
It has a bias, too, whose value it never prints. One square is missing.
"""

import matplotlib.pyplot as plt
import numpy as np

from adam_any import Adam

plt.style.use("tableau-colorblind10")

# %%
# The notebook's Adam, with its names; one line for the weight, one for the bias.


class AdamOptim:
    def __init__(self, eta=0.01, beta1=0.9, beta2=0.999, epsilon=1e-8):
        self.m_dw, self.v_dw = 0, 0
        self.m_db, self.v_db = 0, 0
        self.eta, self.beta1, self.beta2, self.epsilon = eta, beta1, beta2, epsilon

    def update(self, t, w, b, dw, db):
        self.m_dw = self.beta1 * self.m_dw + (1 - self.beta1) * dw
        self.m_db = self.beta1 * self.m_db + (1 - self.beta1) * db
        self.v_dw = self.beta2 * self.v_dw + (1 - self.beta2) * (dw**2)
        self.v_db = self.beta2 * self.v_db + (1 - self.beta2) * (db)  # <- the square is missing
        m_dw, m_db = (m / (1 - self.beta1**t) for m in (self.m_dw, self.m_db))
        v_dw, v_db = (v / (1 - self.beta2**t) for v in (self.v_dw, self.v_db))
        w = w - self.eta * (m_dw / (np.sqrt(v_dw) + self.epsilon))
        b = b - self.eta * (m_db / (np.sqrt(v_db) + self.epsilon))
        return w, b


def gradient(x):
    return 2 * x - 2


def notebook(bias):
    w, b, adam, way = np.float64(0), np.float64(bias), AdamOptim(), []
    with np.errstate(invalid="ignore"):  # NumPy would warn of the root of a negative number
        while len(way) < 2 or way[-1][0] != way[-2][0]:
            w, b = adam.update(len(way) + 1, w, b, gradient(w), gradient(b))
            way.append((w, b, adam.v_db))
    return np.array(way).T


# %%
# The same by ``adam_any.Adam``, for as many steps as are asked for. ``nonfinite="raise"`` would
# name the array as soon as a gradient is NaN.


def ours(bias, steps):
    params = {"w": np.zeros(1), "b": np.full(1, float(bias))}
    opt, way = Adam(params, lr=0.01, nonfinite="raise"), []
    for _ in range(steps):
        params = opt.step({name: gradient(x) for name, x in params.items()})
        way.append((params["w"][0], params["b"][0], opt.moment("v")["b"][0]))
    return np.array(way).T


w, b, v = notebook(0)
w_3, b_3, v_3 = notebook(3)
print(f"The notebook: converged after {len(w)} iterations, w = {w[-1]}, b = {b[-1]}")
long, long_3 = ours(0, 1500), ours(3, 1500)
try:
    Adam({"w": np.zeros(1), "b": np.zeros(1)}, nonfinite="raise").step({"w": w[:1], "b": b[:1]})
except ValueError as error:
    print(f"adam_any, given the notebook's bias as a gradient: {error}")

# %%
# From 0 the gradient of the bias is negative. So is its moving average, which should be one of
# squares, and the root of that is NaN. From 3 the gradient is positive, and nothing is NaN: the
# steps just have the wrong length, which is worse, because nobody sees it.
#
# And the weight? With momentum it swings about the minimum. The notebook stops when two weights in
# a row are equal, and so they are at a turning point, where a step is smaller than the spacing of
# floating-point numbers. Forty steps more, and it would have been exact.

n, error = len(w), abs(long[0] - 1)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
axes[0].plot(long_3[2][:n], "C0", label="adam_any, from 3")
axes[0].plot(long[2][:n], "C0:", label="adam_any, from 0")
axes[0].plot(v_3, "C1--", label="notebook, from 3")
axes[0].plot(v, "C1x", ms=10, mew=3, label="notebook, from 0")
axes[0].set(xlabel="step", ylabel="v of the bias")
axes[1].plot(long_3[1][:n], "C0", label="adam_any, from 3")
axes[1].plot(long[1][:n], "C0:", label="adam_any, from 0")
axes[1].plot(b_3, "C1--", label="notebook, from 3")
axes[1].plot(0, 0, "C1x", ms=10, mew=3, label="notebook, from 0: NaN")
axes[1].set(xlabel="step", ylabel="bias")
axes[2].semilogy(np.maximum(error, 1e-17), "C0", label="adam_any, which goes on")
axes[2].semilogy(abs(w - 1), "C1--", label="notebook")
axes[2].plot(n - 1, abs(w[-1] - 1), "C1o", label=f"notebook, stopped at {n}")
axes[2].set(xlabel="step", ylabel="|w − 1|, 0 shown as 1e-17")
for ax in axes:
    ax.legend(fontsize=8)
plt.show()

print(
    f"After {n} steps the notebook has w to {abs(w[-1] - 1):.0e}, and b = {b[-1]}; adam_any has "
    f"both to {error[n - 1]:.0e}, and after {np.argmax(error == 0) + 1} both are 1. "
    f"The two ways of w differ by at most {abs(w - long[0][:n]).max():.0e}."
)
