"""
Hares and lynxes: an equation by JAX, a fit on NumPy arrays
===========================================================

For twenty-one years the Hudson's Bay Company counted the furs of lynxes and of the hares they eat.
Lotka and Volterra's equations have four rates and two beginnings. JAX differentiates through the
solver; the parameters are a dict of NumPy arrays. Beside it: optax, with the whole loop compiled,
and SciPy's least squares, with the Jacobian from JAX, which is the tool for so few parameters.
"""

import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy import optimize

from adam_any import interop, minimize, rules, schedules

plt.style.use("tableau-colorblind10")
jax.config.update("jax_enable_x64", True)

# %%
# Thousands of furs of hares and lynxes, from 1900 to 1920.

hares = "30 47.2 70.2 77.4 36.3 20.6 18.1 21.4 22 25.4 27.1 40.3 57 76.6 52.3 19.5 11.2 7.6 14.6"
hares += " 16.2 24.7"
lynxes = "4 6.1 9.8 35.2 59.4 41.7 19 13 8.3 9.1 7.4 8 12.3 19.5 45.7 51.1 29.7 15.8 9.7 10.1 8.6"
furs = np.array([hares.split(), lynxes.split()], float).T

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
    return (populations(params)[::10] - jnp.log(furs)).ravel()


@jax.jit
def loss(params):
    return (residuals(params) ** 2).sum()


guess = {"rates": np.log([0.7, 0.02, 0.7, 0.02]), "start": np.log(furs[0])}

# %%
# ``by="jax"`` hands NumPy arrays to JAX and brings the gradients back. Each way is run
# twice, and the second run is timed: the first one compiles.

steps = 600
fun = interop.value_and_grad(loss, by="jax")


def with_adam_any():
    result = minimize(fun, guess, rules.Adam(schedules.cosine(0.05, 0.0, steps=steps)), steps=steps)
    return result.x, result.history.value


@jax.jit
def with_optax():
    transform = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = transform.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = jax.tree.map(jnp.asarray, guess)
    (params, _), values = jax.lax.scan(step, (params, transform.init(params)), length=steps)
    return params, values


x0, tree = ravel_pytree(guess)  # one vector, and the way back
of_vector = jax.jit(lambda x: residuals(tree(x)))
jacobian = jax.jit(jax.jacfwd(of_vector))


def with_scipy():
    result = optimize.least_squares(of_vector, x0, jacobian)
    return tree(result.x), result.nfev * [2 * result.cost]


found, ways = {}, {}
runs = {"adam_any": with_adam_any, "optax, compiled": with_optax, "least squares": with_scipy}
for name, run in runs.items():
    jax.block_until_ready(run())
    began = time.perf_counter()
    found[name], ways[name] = jax.block_until_ready(run())
    seconds = time.perf_counter() - began
    value = loss(found[name])
    print(f"{name}: {value:.6f} after {len(ways[name])} evaluations, in {seconds:.2f} s")

# %%
years = np.linspace(1900, 1920, 201)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for params, style in ((guess, ":"), (found["adam_any"], "-")):
    for i, curve in enumerate(np.exp(populations(params)).T):
        left.plot(years, curve, style, color=f"C{i}")
left.plot(years[::10], furs[:, 0], "o", label="hares")
left.plot(years[::10], furs[:, 1], "^", label="lynxes")
left.set(xlabel="year", ylabel="furs (thousands)", xticks=years[::50])
left.set_title("Points: counted; dotted: the guess; lines: fitted", fontsize=10)
left.legend()
for (name, values), style in zip(ways.items(), ("-", "--", "o"), strict=True):
    right.semilogy(values, style, label=name)
right.set(xlabel="evaluations", ylabel="squared residuals of logarithms")
right.legend()
plt.show()
