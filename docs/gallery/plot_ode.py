"""
Hares and lynxes: an equation by JAX, a fit on NumPy arrays
===========================================================

For twenty-one years the Hudson's Bay Company counted the furs of lynxes and of the hares they eat.
Lotka and Volterra's equations have four rates and two beginnings. JAX differentiates through the
solver; the parameters are a dict of NumPy arrays. The alternatives are optax, compiled as a whole,
and SciPy's least squares, which has the Jacobian of all residuals from JAX.
"""

import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy import optimize

from adam_any import interop, minimize, rules, schedules

plt.style.use("tableau-colorblind10")

# %%
# Thousands of furs from 1900 to 1920.

hares = [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1]
hares += [40.3, 57, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
lynxes = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4]
lynxes += [8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
furs = np.array([hares, lynxes]).T

# %%
# Runge and Kutta's method, ten steps a year, of the logarithms, which cannot become negative. The
# parameters are logarithms, too, and begin with a rough guess.


def populations(params):
    birth, eaten, death, fed = jnp.exp(params["rates"])

    def slope(y):
        hare, lynx = jnp.exp(y)
        return jnp.array([birth - eaten * lynx, fed * hare - death])

    def step(y, _):
        a = slope(y)
        b = slope(y + 0.05 * a)
        c = slope(y + 0.05 * b)
        d = slope(y + 0.1 * c)
        return y + (a + 2 * b + 2 * c + d) / 60, y

    return jax.lax.scan(step, params["start"], length=201)[1]


def residuals(params):
    return populations(params)[::10] - jnp.log(furs)


@jax.jit
def loss(params):
    return (residuals(params) ** 2).sum()


guess = {"rates": np.log([0.7, 0.02, 0.7, 0.02]), "start": np.log(furs[0])}

# %%
# ``by="jax"`` hands NumPy arrays to JAX in float64 and brings the gradients back. Each way is run
# twice, and the second run is timed: the first one compiles.

steps, rate = 600, schedules.cosine(0.05, 0.0, steps=600)
fun = interop.value_and_grad(loss, by="jax")


def with_adam_any():
    result = minimize(fun, guess, rules.Adam(rate), steps=steps)
    return result.x, result.history.value


@jax.jit
def with_optax(params):
    transform = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = transform.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), values = jax.lax.scan(step, (params, transform.init(params)), length=steps)
    return params, values


def split(x):
    return {"rates": x[:4], "start": x[4:]}


def with_least_squares():
    flat = jax.jit(lambda x: residuals(split(x)).ravel())
    x0, jacobian, values = np.concatenate([*guess.values()]), jax.jit(jax.jacfwd(flat)), []

    def noted(x):
        values.append((flat(x) ** 2).sum())
        return flat(x)

    return split(optimize.least_squares(noted, x0, jacobian).x), values


found, ways = {}, {}
with jax.enable_x64(True):
    started = jax.tree.map(jnp.asarray, guess)
    runs = {
        "adam_any": with_adam_any,
        "optax, compiled": lambda: jax.block_until_ready(with_optax(started)),
        "SciPy's least squares": with_least_squares,
    }
    for name, run in runs.items():
        run()
        began = time.perf_counter()
        found[name], ways[name] = run()
        seconds = time.perf_counter() - began
        print(
            f"{name}: {loss(found[name]):.6f} after {len(ways[name])} evaluations, {seconds:.2f} s"
        )
    curves, first = (np.exp(populations(p)) for p in (found["adam_any"], started))

# %%
years = np.arange(1900, 1921)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for i, animal in enumerate(("hares", "lynxes")):
    left.plot(years, furs[:, i], "o^"[i], color=f"C{i}", label=f"{animal}, counted")
    left.plot(np.linspace(1900, 1920, 201), curves[:, i], color=f"C{i}", label=f"{animal}, fitted")
    left.plot(np.linspace(1900, 1920, 201), first[:, i], ":", color=f"C{i}", lw=1)
left.set(xlabel="year", ylabel="furs (thousands)", xticks=[1900, 1905, 1910, 1915, 1920])
left.set_title("Dotted: the guess", fontsize=10)
left.legend(fontsize=8)
for (name, values), style in zip(ways.items(), ("-", "--", "o-"), strict=True):
    right.semilogy(values, style, label=name)
right.set(xlabel="evaluations", ylabel="squared residuals of logarithms")
right.legend()
plt.show()
