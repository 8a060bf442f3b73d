"""Past one machine: eight devices of JAX (virtual ones, on the CPU), and clusters of both."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, Optimizer, functional, rules
from tests.helpers import ROOT
from tests.helpers.devices import assert_laid_out, laid_out

AXES = pytest.mark.parametrize("axes", ["Auto", "Explicit"])


@pytest.mark.promise(
    "Sharded JAX arrays keep their layout, and get the numbers of one device.", engines=["xla"]
)
@AXES
def test_sharded_arrays_keep_their_layout_and_have_the_bits_of_one_device(
    jax: Any, axes: str
) -> None:
    """Parameters, moments and results keep it."""
    host, one, other = laid_out(axes)
    many = Adam(jax.device_put(host, one), lr=0.1, amsgrad=True)
    single = Adam(jax.tree.map(jax.numpy.asarray, host), lr=0.1, amsgrad=True)
    assert {row.engine for row in many.explain()} == {"xla"}
    assert many.explain()[0].device.startswith("8 devices")
    for step in range(10):
        grads = {name: (step - 3) * x for name, x in host.items()}
        # Laid out as the parameters are, and differently: then they are moved.
        out = many.step(jax.device_put(grads, one if step % 2 else other))
        want = single.step(jax.tree.map(jax.numpy.asarray, grads))
        assert_laid_out(out, one)
    for leaf in many._contents.leaves:
        assert len(leaf.moments) == 3
        for moment in leaf.moments:
            assert_laid_out({leaf.path: moment}, one)
    shard = many._contents.leaves[-1].moments[0].addressable_shards[0].data
    assert many._contents.leaves[-1].path == "z" and shard.shape == (4, 2, 2)
    for name, x in out.items():
        # Bit by bit: each device computes what it holds, and nothing is summed.
        assert np.asarray(x).tobytes() == np.asarray(want[name]).tobytes(), name

    with pytest.raises(TypeError, match=r"cpu:0.*8 devices"):
        many.step(jax.tree.map(jax.numpy.asarray, host))


@AXES
def test_sums_over_sharded_arrays_are_those_of_one_device(jax: Any, axes: str) -> None:
    """Also where JAX computes in 32 bits; and no more than numbers is sent."""
    from adam_any.engines import xla

    host, one, _ = laid_out(axes)
    rule = rules.Clipped(rules.Adam(0.1), norm=1.0, leaf_norm=0.9)
    many = Optimizer(jax.device_put(host, one), rule, nonfinite="raise")
    single = Optimizer(jax.tree.map(jax.numpy.asarray, host), rule)
    for _ in range(3):
        out = many.step(jax.device_put(host, one))
        want = single.step(jax.tree.map(jax.numpy.asarray, host))
    assert_laid_out(out, one)
    for name, x in out.items():
        eps = np.finfo(host[name].dtype).eps
        error = abs(np.asarray(x).astype("complex128") - np.asarray(want[name]))
        assert np.all(error <= 3 * 4 * eps * np.maximum(abs(host[name]), 0.1)), name
    for x in jax.device_put(host, one).values():
        if x.dtype == "float32":
            text = jax.jit(xla.added).lower(x).compile().as_text()
            assert "all-gather" not in text and "all-to-all" not in text
    with pytest.raises(ValueError, match="'w': the gradient has an infinity or a NaN"):
        many.step({**out, "w": out["w"] * np.nan})


@AXES
def test_a_state_is_laid_out_as_its_parameters_are(jax: Any, axes: str) -> None:
    """State is loaded, copied, and the parameters laid out anew, without losing the layout."""
    host, one, other = laid_out(axes)
    a = Adam(jax.device_put(host, one), lr=0.1)
    a.step(jax.device_put(host, one))
    state = a.state_dict()
    assert_laid_out({name: entry["v"] for name, entry in state["state"].items()}, one)

    b = Adam(jax.device_put(host, other), lr=0.1)
    b.params = jax.device_put(a.params, other)
    b.load_state_dict(state)  # laid out like `one`
    for opt, shardings in ((b, other), (copy.deepcopy(a), one)):
        for _ in range(2):
            assert_laid_out(opt.step(jax.device_put(host, one)), shardings)
        for leaf in opt._contents.leaves:
            for moment in leaf.moments:
                assert_laid_out({leaf.path: moment}, shardings)

    single = Adam(jax.tree.map(np.asarray, a.params), lr=0.1, engine="eager")
    single.load_state_dict(state)  # from eight devices to the host, and back
    a.load_state_dict(single.state_dict())
    out = a.step(jax.device_put(host, one))
    assert_laid_out(out, one)
    want = single.step(host)
    for name, x in out.items():
        eps = np.finfo(host[name].dtype).eps
        error = abs(np.asarray(x).astype("complex128") - want[name])
        assert np.all(error <= 4 * eps * np.maximum(abs(host[name]), 0.1)), name


@AXES
def test_the_pure_face_keeps_shardings(jax: Any, axes: str) -> None:
    """Under jit, and also for the state that init makes."""
    host, one, _ = laid_out(axes)
    params = jax.device_put(host, one)
    state = functional.init(params)
    assert_laid_out(state.moments["m"], one)

    @jax.jit
    def train(params: Any, state: Any) -> Any:
        return functional.step(params, jax.tree.map(lambda x: x / 2, params), state, lr=0.1)

    for _ in range(3):
        params, state = train(params, state)
        assert_laid_out(params, one)
        assert_laid_out(state.moments["v"], one)
    assert int(state.step["w"]) == 3


def python(devices: int, *arguments: str) -> subprocess.Popen[str]:
    """A process in which JAX has that many devices, and warnings are errors."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    here = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, **here},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def succeed(*processes: subprocess.Popen[str]) -> None:
    errors = [process.communicate()[1] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)


def started(devices: int, call: str) -> subprocess.Popen[str]:
    """Such a process, running a function of this module."""
    return python(devices, "-c", f"from tests.engines.test_scaling import *; {call}")


@pytest.mark.cluster
def test_on_two_processes_of_jax() -> None:
    pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    succeed(*(started(2, f"process({index}, {port})") for index in range(2)))


def process(index: int, port: int) -> None:
    """Of arrays that lie in two processes, each steps its half."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(address, 2, index, coordinator_bind_address=address)
    sharding = NamedSharding(jax.make_mesh((4,), ("x",)), PartitionSpec("x"))
    host = {"w": np.arange(8, dtype="float32"), "z": np.arange(8, dtype="complex64")}

    def everywhere(tree: Any) -> Any:
        return {
            name: jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
            for name, x in tree.items()
        }

    opt = Adam(everywhere(host), lr=0.1)
    single = Adam({name: x.copy() for name, x in host.items()}, lr=0.1, engine="eager")
    for step in range(5):
        grads = {name: x - step for name, x in host.items()}
        out, want = opt.step(everywhere(grads)), single.step(grads)
        if step == 2:
            opt.load_state_dict(opt.state_dict())
    for name, x in out.items():
        assert x.sharding == sharding and not x.is_fully_addressable
        shards = x.addressable_shards
        assert [shard.index[0].start for shard in shards] == [4 * index, 4 * index + 2]
        for shard in shards:
            there = want[name][shard.index]
            bound = 5 * 4 * np.finfo("float32").eps * np.maximum(abs(there), 0.1)
            assert np.all(abs(np.asarray(shard.data) - there) <= bound)
    with pytest.raises(ValueError, match=r"'w' cannot be saved in one file.*orbax"):
        opt.save("never.adam")
    jax.distributed.shutdown()


@pytest.mark.cluster
def test_on_a_dask_cluster_of_two_processes() -> None:
    distributed = pytest.importorskip(
        "distributed", reason="distributed is not installed: pip install distributed"
    )
    da = pytest.importorskip("dask.array")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        rng = np.random.default_rng(0)
        host = {"w": rng.normal(size=(64, 8)), "z": (rng.normal(size=9) * 1j).astype("complex64")}
        here = threading.Lock()  # a schedule stays in this process, whatever it holds

        def schedule(count: int) -> float:
            with here:
                return 0.1 / (1 + count)

        tree = {"w": da.from_array(host["w"], chunks=(8, 8)), "z": da.from_array(host["z"])}
        opt = Adam(tree, lr=schedule)
        single = Adam({name: x.copy() for name, x in host.items()}, lr=schedule, engine="eager")
        for _ in range(5):
            out = opt.step({name: 2 * x for name, x in opt.params.items()})
            want = single.step({name: 2 * x for name, x in single.params.items()})
        for name, x in out.items():
            assert x.compute().tobytes() == want[name].tobytes()
        assert len(dict(out["w"].__dask_graph__())) == 8
        assert {w for where in client.who_has(out["w"]).values() for w in where} == set(
            client.scheduler_info()["workers"]
        )

        def fail(block: Any) -> Any:
            raise ArithmeticError("a bad gradient")

        state = {name: x.compute().tobytes() for name, x in opt.params.items()}
        bad = {"w": out["w"], "z": out["z"].map_blocks(fail, meta=host["z"])}
        with pytest.raises(ArithmeticError, match="a bad gradient"):
            opt.step(bad)
        assert {name: x.compute().tobytes() for name, x in opt.params.items()} == state
        assert opt.steps == {"w": 5, "z": 5}
        opt.step(opt.params)
