"""Arrays of other kinds, each beside what its user would take instead; and whole loops.

Other dtypes, arrays with gaps, JAX's arrays, Python floats. In a loop the gradient is computed
between two steps, by BLAS or FFT: helper threads that wait busily would slow it down, so the time
of the whole loop counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .competitors import (
    BETAS,
    EPS,
    FOREACH,
    LR,
    OPTAX,
    OURS,
    TEXTBOOK,
    TORCH,
    Competitor,
    Make,
    Optax,
    Ours,
    Textbook,
    Torch,
    torch_adam,
)
from .harness import Runner, needed
from .workloads import ON_CPU, Arrays, Workload

DENSE, SINGLE, NOTEBOOK = "adam_any, dense", "adam_any, float32", "the notebook's class"


class Case(NamedTuple):
    """A workload on arrays of another kind, and who steps it."""

    title: str
    workload: Workload
    who: dict[str, Make]


def numpy_of(dtype: str) -> Callable[[Any], Any]:
    """To NumPy arrays of another dtype, with a copy."""
    return lambda x: x.astype(dtype)


def torch_of(dtype: str) -> Callable[[Any], Any]:
    """To torch tensors of another dtype, with a copy."""

    def converted(x: Any) -> Any:
        torch = needed("torch")
        return torch.from_dlpack(x).to(getattr(torch, dtype))

    return converted


def strided(x: Any) -> Any:
    """Every other element of an array twice as long."""
    return np.repeat(x, 2)[::2]


def torch_in(like: Callable[[Any], Any], **how: bool) -> Make:
    """torch.optim.Adam on tensors made from these arrays."""

    def make(params: Arrays, grads: Arrays) -> Competitor:
        adam = partial(needed("torch").optim.Adam, **how)
        return Torch(params, grads, adam, like)

    return make


class OnJAX(Ours):
    """The package on JAX's arrays, of which the last step is waited for."""

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        self.jax = needed("jax")
        super().__init__(params, grads, like=self.jax.numpy.array)

    def finish(self) -> None:
        """Wait for the last step."""
        self.jax.block_until_ready(self.optimizer.params)


class Notebook(Competitor):
    """The class of the notebook that this package grew from, its bug mended: Python's arithmetic
    on two floats, and NumPy's root.
    """

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        super().__init__(*([float(x[0]) for x in arrays] for arrays in (params, grads)))
        self.m_dw = self.v_dw = self.m_db = self.v_db = 0.0
        self.t = 0

    def step(self) -> None:
        """Make one step."""
        self.t += 1
        (w, b), (dw, db), (beta1, beta2) = self.p, self.g, BETAS
        self.m_dw = beta1 * self.m_dw + (1 - beta1) * dw
        self.m_db = beta1 * self.m_db + (1 - beta1) * db
        self.v_dw = beta2 * self.v_dw + (1 - beta2) * (dw**2)
        self.v_db = beta2 * self.v_db + (1 - beta2) * (db**2)
        m_dw = self.m_dw / (1 - beta1**self.t)
        m_db = self.m_db / (1 - beta1**self.t)
        v_dw = self.v_dw / (1 - beta2**self.t)
        v_db = self.v_db / (1 - beta2**self.t)
        w = w - LR * (m_dw / (np.sqrt(v_dw) + EPS))
        b = b - LR * (m_db / (np.sqrt(v_db) + EPS))
        self.p = [w, b]


class Floats(Ours):
    """The package on Python floats."""

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        super().__init__(params, grads, like=lambda x: float(x[0]))

    def step(self) -> None:
        """Make one step."""
        self.p = self.optimizer.step(self.g)


def _cases() -> dict[str, Case]:
    fused, foreach = {"fused": True, "foreach": False}, {"fused": False, "foreach": True}
    cases = {}
    for size in ("1x1M", "1x16M"):
        like = numpy_of("float64")
        who = {OURS: partial(Ours, like=like), TORCH: torch_in(torch_of("float64"), **fused)}
        cases[f"float64-{size}"] = Case(f"float64 {size[2:]}", ON_CPU[size], who)
    who = {
        OURS: partial(Ours, like=numpy_of("complex64")),
        FOREACH: torch_in(torch_of("complex64"), **foreach),
    }
    cases["complex64"] = Case("complex64 1M", ON_CPU["1x1M"], who)
    for dtype in ("bfloat16", "float16"):
        for size in ("1x100k", "1x4M"):
            like = torch_of(dtype)
            who = {OURS: partial(Ours, like=like), TORCH: torch_in(like, **fused)}
            cases[f"{dtype}-{size}"] = Case(f"{dtype} {size[2:]}", ON_CPU[size], who)
    who = {OURS: partial(Ours, like=numpy_of("float16")), SINGLE: Ours}
    cases["numpy-float16"] = Case("NumPy float16 4M", ON_CPU["1x4M"], who)
    who = {OURS: partial(Ours, like=strided), DENSE: Ours, TEXTBOOK: _strided_textbook}
    cases["strided"] = Case("strided 1M", ON_CPU["1x1M"], who)
    for key in ("1x1k", "1x1M", "200x64x64"):
        kept = partial(Optax, donated=(1,))
        who = {OURS: OnJAX, OPTAX: Optax, "optax, parameters kept": kept}
        cases[f"jax-{key}"] = Case(f"JAX {ON_CPU[key].title}", ON_CPU[key], who)
    floats = Workload("2x1", "2 floats", ((1,), (1,)))
    cases["floats"] = Case("2 Python floats", floats, {OURS: Floats, NOTEBOOK: Notebook})
    return cases


def _strided_textbook(params: Arrays, grads: Arrays) -> Competitor:
    return Textbook([strided(p) for p in params], [strided(g) for g in grads])


KINDS = _cases()


# Loops --------------------------------------------------------------------------------------------


class Loop(Runner):
    """A whole loop: the gradient, into the arrays that a competitor reads, and its step."""

    def __init__(
        self, make: Make, gradient: Callable[[Any, Any], None], params: Arrays, grads: Arrays
    ) -> None:
        self.stepping = make(params, grads)
        self.gradient, (self.p,), (self.g,) = gradient, params, grads

    def step(self) -> None:
        """Compute the gradient, and make one step."""
        self.gradient(self.p, self.g)
        self.stepping.step()


def by_fft() -> Callable[[Any, Any], None]:
    """Half the squared distance of a blurred image to another: two transforms of 512 by 512."""
    random = np.random.default_rng(3)
    blur, goal = (np.fft.rfft2(random.random((512, 512), np.float32)) for _ in range(2))
    blur /= abs(blur).max()

    def gradient(p: Any, g: Any) -> None:
        rest = blur * np.fft.rfft2(p) - goal
        g[...] = np.fft.irfft2(np.conj(blur) * rest, p.shape)

    return gradient


def by_blas() -> Callable[[Any, Any], None]:
    """Half the squared distance of a product of matrices to another: two products of 32 rows."""
    random = np.random.default_rng(3)
    a, b = (random.standard_normal((32, 447), np.float32) for _ in range(2))

    def gradient(p: Any, g: Any) -> None:
        np.matmul(a.T, a @ p - b, out=g)

    return gradient


LOOPERS: dict[str, Make] = {
    OURS: Ours,
    TORCH: torch_adam(foreach=False, fused=True),
    TEXTBOOK: Textbook,
}
LOOPS = {
    "fft": (Workload("fft", "512² by FFT", ((512, 512),)), by_fft),
    "blas": (Workload("blas", "447² by BLAS", ((447, 447),)), by_blas),
}


def looping(name: str) -> Case:
    """A loop, and who steps in it."""
    workload, gradient = LOOPS[name]
    who = {key: partial(Loop, make, gradient()) for key, make in LOOPERS.items()}
    return Case(workload.title, workload, who)
