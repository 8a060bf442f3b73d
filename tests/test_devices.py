"""Devices and streams: a leaf is stepped on its own device, on the stream that is current there."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np
import pytest

from adam_any import Adam
from tests.helpers import oracle
from tests.helpers.bits import refused
from tests.helpers.libraries import EPS, LIBRARIES, Lib, on


def devices(lib: Lib) -> list[Any]:
    """The devices of a library; array-api-strict and JAX pretend to have two."""
    if lib.name == "array_api_strict":
        return [lib.module.Device(name) for name in ("CPU_DEVICE", "device1")]
    if lib.name == "jax":
        return list(lib.module.devices())
    if lib.name == "cupy":
        return [lib.module.cuda.Device(i) for i in range(lib.module.cuda.runtime.getDeviceCount())]
    return [f"cuda:{i}" for i in range(lib.module.cuda.device_count())]


@pytest.mark.promise(
    "The arrays of one optimizer may be on several devices, whichever of them is current.",
    defect="D10",
    seen=["cupy#3193", "cupy#5795", "sigpy#67"],
)
@on(lib for lib in LIBRARIES if lib.name in ("array_api_strict", "jax") or lib.device == "cuda")
def test_leaves_on_two_devices_step_on_their_own(lib: Lib) -> None:
    """The current device is not taken for the array's."""
    if len(devices(lib)) < 2:
        pytest.skip(f"{lib.name} finds one CUDA device: use a machine with two")
    here, there = devices(lib)[:2]

    def put(x: float, device: Any) -> Any:
        return array_api_compat.to_device(lib.array([x]), device)

    opt = Adam({"a": put(1.0, here), "b": put(2.0, there)}, lr=0.1, engine=lib.engine)
    assert {choice.engine for choice in opt.explain()} == {lib.runs}
    with refused(opt, TypeError, match=r"'b': the gradient is on .*its parameter on"):
        opt.step({"a": put(1.0, here), "b": put(1.0, here)})
    for _ in range(2):
        out = opt.step({"a": put(1.0, here), "b": put(1.0, there)})
    for x, device, want in ((out["a"], here, 0.8), (out["b"], there, 1.8)):
        assert str(array_api_compat.device(x)) == str(device)
        assert lib.numpy(array_api_compat.to_device(x, here)) == pytest.approx(want)


@pytest.mark.promise("A gradient on another device than its parameter is refused.", defect="D10")
@on(lib for lib in LIBRARIES if lib.name == "torch")
def test_a_gradient_on_another_device_is_refused(lib: Lib) -> None:
    """torch has a device without memory."""
    opt = Adam({"a": lib.array([1.0]), "w": lib.array([1.0])}, engine=lib.engine)
    opt.step({"a": lib.array([1.0]), "w": lib.array([1.0])})
    with refused(opt, TypeError, match=r"'w': the gradient is on meta, its parameter on"):
        opt.step({"a": lib.array([1.0]), "w": lib.array([1.0]).to("meta")})


@pytest.mark.promise("A step runs on the current stream.", defect="D10", seen=["cupy#2524"])
@on(lib for lib in LIBRARIES if lib.device == "cuda")
def test_a_step_runs_on_the_current_stream(lib: Lib) -> None:
    """On the default stream the gradient would not be ready yet."""
    cuda = lib.module.cuda
    stream = cuda.Stream(non_blocking=True) if lib.name == "cupy" else cuda.Stream()
    p, g, wide = (lib.array(x, "float32") for x in ([1.0], [0.0], np.ones((4096, 4096))))
    opt = Adam(p, lr=0.1, engine=lib.engine)
    opt.step(g)  # compiles
    assert lib.numpy(wide)[0, 0] == lib.numpy(p) == 1.0  # and has been done
    with stream if lib.name == "cupy" else cuda.stream(stream):
        for _ in range(20):
            wide = wide @ wide * 0 + 1  # tens of milliseconds in all
        g += wide[0, 0]
        opt.step(g)
    stream.synchronize()
    want = oracle.run(1.0, [0.0, 1.0], lr=0.1)[-1].p
    assert lib.numpy(p) == pytest.approx(want, abs=2 * 4 * EPS["float32"])
