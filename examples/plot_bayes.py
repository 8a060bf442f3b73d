"""
How sure is a classifier? Variational Bayes
===========================================

Logistic regression on the breast cancer data, with a normal distribution for each weight in place
of a number. The bound on the evidence is estimated with random weights, so its gradients are noisy;
clipped, with a rate that falls, and averaged over the last steps they lead where Laplace's
approximation, which takes the curvature at the single best point, does not quite get.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from adam_any import minimize, rules, schedules

plt.style.use("tableau-colorblind10")
random = np.random.default_rng(0)

# %%
# The data come with scikit-learn: 30 measures of 569 tumours. The prior of each weight is a
# standard normal distribution, which is scikit-learn's default penalty.

measures, benign = load_breast_cancer(return_X_y=True)
x, x_test, y, y_test = train_test_split(measures, benign, test_size=0.5, random_state=0)
scaler = StandardScaler().fit(x)
x, x_test = (np.c_[scaler.transform(a), np.ones(len(a))] for a in (x, x_test))


def loss(weights, x=x, y=y):  # of each row of weights, with the prior
    scores = weights @ x.T
    return (np.logaddexp(0, scores) - y * scores).sum(-1) + 0.5 * (weights**2).sum(-1)


def bound(mean, deviation):  # on the negative logarithm of the evidence, with many draws
    noise = np.random.default_rng(1).normal(size=(1000, len(mean)))
    return loss(mean + deviation * noise).mean() - np.log(deviation).sum() - 0.5 * len(mean)


# %%
# Eight draws a step. ``means`` and ``logs`` of deviations are a dict, and so are the gradients.


def fun(params):
    deviation = np.exp(params["logs"])
    noise = random.normal(size=(8, len(deviation)))
    weights = params["means"] + deviation * noise
    slopes = (expit(weights @ x.T) - y) @ x + weights
    grads = {"means": slopes.mean(0), "logs": (slopes * noise).mean(0) * deviation - 1}
    return loss(weights).mean() - params["logs"].sum() - 0.5 * len(deviation), grads


steps = 2000
rate = schedules.cosine(0.05, 0.001, steps=steps)
rule = rules.Averaged(rules.Clipped(rules.Adam(rate), norm=10.0), decay=0.995)
way = {"last iterate": [], "average": []}


def look(record):
    if record.step % 100 == 0:
        now, average = record.params, record.optimizer.moment("average")
        for name, p in {"last iterate": now, "average": average}.items():
            way[name].append(bound(p["means"], np.exp(p["logs"])))


start = {"means": np.zeros(x.shape[1]), "logs": np.full(x.shape[1], -1.0)}
result = minimize(fun, start, rule, steps=steps, callback=look)
average = result.optimizer.moment("average")
mean, deviation = average["means"], np.exp(average["logs"])

# %%
# Laplace: the best point by scikit-learn, and the inverse of the curvature there.

model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-8, max_iter=1000).fit(x, y)
best = model.coef_[0]
curved = expit(x @ best) * (1 - expit(x @ best))
covariance = np.linalg.inv(x.T * curved @ x + np.eye(len(best)))


def test_loss(weights):  # of the prediction that all draws make together
    chance = expit(weights @ x_test.T).mean(0)
    return -np.mean(np.log(np.where(y_test, chance, 1 - chance)))


draws = {
    "Variational Bayes": mean + deviation * random.normal(size=(4000, len(mean))),
    "Laplace": random.multivariate_normal(best, covariance, 4000),
    "The best point alone": best[None],
}

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, values in way.items():
    left.plot(100 * np.arange(len(values)), values, label=name)
both = bound(best, np.sqrt(1 / np.diag(np.linalg.inv(covariance))))
left.axhline(both, color="C2", ls="--", label="Laplace, without correlations")
left.set(
    xlabel="steps",
    ylabel="bound on -log evidence (nats)",
    ylim=(0.9 * way["average"][-1], 1.3 * both),
)
left.legend()
at = np.arange(len(mean))
right.errorbar(at - 0.2, mean, deviation, fmt=".", label="Variational Bayes")
right.errorbar(at + 0.2, best, np.sqrt(np.diag(covariance)), fmt=".", label="Laplace")
right.set(xlabel="weight", ylabel="mean and deviation")
right.legend()
plt.show()

print("; ".join(f"{name}: test loss {test_loss(w):.4f}" for name, w in draws.items()) + " nats.")
last, averaged = way["last iterate"][-1], way["average"][-1]
print(f"Bound: last iterate {last:.2f}, average {averaged:.2f}, Laplace {both:.2f} nats.")
