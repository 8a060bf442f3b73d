"""What only a GPU can show of the CUDA engine: streams, graphs, memory, sizes, and the real bits.

The cases of every library, on two devices and on streams of their own among them, run on CuPy and
torch CUDA arrays through the `lib` fixture of the other files.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW, Optimizer, rules
from adam_any.engines.cuda import device
from tests.helpers.bits import same
from tests.helpers.libraries import LIBRARIES, Lib, require
from tests.helpers.numbers import data

ON_GPU = [lib for lib in LIBRARIES if lib.device == "cuda" and lib.engine is None]

pytestmark = pytest.mark.cuda


@pytest.fixture(params=ON_GPU, ids=str)
def lib(request: pytest.FixtureRequest) -> Lib:
    require(request.config, request.param)
    if device.missing() is not None:
        pytest.skip(str(device.missing()))
    found: Lib = request.param
    return found


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks of every launch, in order."""
    made: list[int] = []
    kernel = device.Device.kernel

    def counted(self: device.Device, text: str) -> Any:
        run = kernel(self, text)

        def launch(grid: Any, *arguments: Any, **options: Any) -> None:
            made.append(grid[0])
            run(grid, *arguments, **options)

        return launch

    monkeypatch.setattr(device.Device, "kernel", counted)
    return made


def put(lib: Lib, x: Any) -> Any:
    """The same numbers on the GPU, to the bit."""
    if lib.name == "torch":
        return lib.module.from_numpy(x.copy(order="K")).cuda()
    return lib.module.asarray(x)


def fetched(lib: Lib, x: Any) -> Any:
    """The same numbers in NumPy, to the bit."""
    return x.detach().cpu().numpy() if lib.name == "torch" else x.get()


def wide(rng: Any, number: int, dtype: str) -> Any:
    """Numbers of every size, a tenth of them subnormal or with subnormal squares, some special."""
    x = rng.standard_normal(number)
    with np.errstate(all="ignore"):
        tiny = slice(None, None, 10)
        x[tiny] *= 10.0 ** rng.integers(-330 if dtype == "float64" else -46, -5, len(x[tiny]))
        x[:7] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e30]
        return x.astype(dtype)


@pytest.mark.promise("A GPU gives the bits of NumPy.", defect="D19", seen=["bitsandbytes#2010"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ten_million_elements_have_the_bits_of_the_cpu_engine(lib: Lib, dtype: str) -> None:
    rng = np.random.default_rng(0)
    host = wide(rng, 10**7, dtype)
    there = put(lib, host)
    options: dict[str, Any] = {"weight_decay": 0.1, "amsgrad": True}
    on_gpu, on_cpu = AdamW(there, **options), AdamW(host, **options)
    assert on_gpu.explain()[0].engine == "cuda" and on_cpu.explain()[0].engine == "cpu"
    for _ in range(3):
        g = wide(rng, 10**7, dtype)
        on_gpu.step(put(lib, g)), on_cpu.step(g)
    same(fetched(lib, there), host)
    mine, theirs = (opt.state_dict()["state"][""] for opt in (on_gpu, on_cpu))
    subnormal = 0
    for name in ("m", "v", "vmax"):
        same(fetched(lib, mine[name]), theirs[name])
        size = np.abs(theirs[name])
        subnormal += np.count_nonzero((size > 0) & (size < np.finfo(dtype).tiny))
    assert subnormal > 1000  # the case is what it says


def test_misaligned_views_have_the_bits_of_numpy(lib: Lib) -> None:
    rng = np.random.default_rng(2)
    host, g = (data(rng, (50_003,), "float32") for _ in range(2))
    whole, gradient = put(lib, host), put(lib, g)
    for start in range(1, 4):  # no multiple of 16 bytes
        mine, theirs = whole[start:], host[start:]
        on_gpu, on_cpu = Adam(mine), Adam(theirs)
        on_gpu.step(gradient[start:]), on_cpu.step(g[start:])
    same(fetched(lib, whole), host)


@pytest.mark.promise("All arrays of one device and dtype are updated in one launch.")
def test_there_is_one_launch_for_all_leaves(lib: Lib, launches: list[int]) -> None:
    params = [lib.array(np.zeros(n % 50), "float32") for n in range(1000)]
    opt = Adam(params, lr=1.0)
    for t in range(1, 4):
        opt.step([lib.array(np.ones(n % 50), "float32") for n in range(1000)])
        assert len(launches) == t
    assert set(launches) == {980}  # a block for each that is not empty
    assert lib.numpy(params[49]) == pytest.approx(np.full(49, -3.0))


def test_more_than_4000_leaves_take_two(lib: Lib, launches: list[int]) -> None:
    params = [lib.array([0.0], "float32") for _ in range(4001)]
    Adam(params, lr=1.0).step([lib.array([1.0], "float32") for _ in range(4001)])
    assert launches == [4000, 1]
    assert {float(lib.numpy(x)[0]) for x in params} == {-1.0}


@pytest.mark.promise("A step allocates nothing on the device.")
def test_a_step_allocates_nothing_on_the_device(lib: Lib) -> None:
    """Gradients that lie as their parameters do; the tables are made in the first step."""
    cupy: Any = pytest.importorskip("cupy")
    params, grads = ([lib.array(np.ones(99), "float32") for _ in range(50)] for _ in range(2))
    opt = Adam(params)
    opt.step(grads), opt.step(grads)
    asked: list[int] = []

    class Hook(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "adam_any"

        def alloc_preprocess(self, **facts: Any) -> None:
            asked.append(facts["mem_size"])

        def malloc_preprocess(self, **facts: Any) -> None:
            asked.append(facts["size"])

    before = _torch_allocations(lib)
    with Hook():
        for _ in range(3):
            opt.step(grads)
    assert asked == []
    assert _torch_allocations(lib) == before


def _torch_allocations(lib: Lib) -> int:
    if lib.name != "torch":
        return 0
    return int(lib.module.cuda.memory_stats()["allocation.all.allocated"])


@contextlib.contextmanager
def stream(lib: Lib) -> Iterator[Any]:
    """A stream of its own that waits for no other, current while it lasts."""
    cuda = lib.module.cuda
    made = cuda.Stream(non_blocking=True) if lib.name == "cupy" else cuda.Stream()
    with made if lib.name == "cupy" else cuda.stream(made):
        yield made


@pytest.mark.promise(
    "A step is queued on the current stream, and the host does not wait for it.",
    defect="D10",
    seen=["cupy#2524"],
)
def test_a_step_is_queued_on_the_current_stream_and_not_waited_for(lib: Lib) -> None:
    """The stream is held up, and the step with it, but not the host."""
    p, g = (lib.array([1.0], "float32") for _ in range(2))
    opt = Adam(p, lr=0.5)
    gate, passed = threading.Event(), list[bool]()
    with stream(lib) as mine:
        opt.step(g)  # compiles, and makes the tables of this stream
        mine.synchronize()
        queue = mine if lib.name == "cupy" else device.foreign(mine.cuda_stream)
        queue.launch_host_func(lambda _: passed.append(gate.wait(60)), None)
        opt.step(g)
        event = lib.module.cuda.Event()
        event.record(mine)
        assert not (event.query() if lib.name == "torch" else event.done)
        gate.set()
        mine.synchronize()
    assert passed == [True]
    assert float(lib.numpy(p)[0]) == 0.0


def test_steps_on_streams_in_turn_have_the_bits_of_one(lib: Lib) -> None:
    rng = np.random.default_rng(3)
    host, grads = data(rng, (9999,), "float32"), [data(rng, (9999,), "float32") for _ in range(6)]
    there = put(lib, host)
    given = [put(lib, g) for g in grads]
    lib.module.cuda.Device().synchronize() if lib.name == "cupy" else lib.module.cuda.synchronize()
    on_gpu, on_cpu = Adam(there), Adam(host)
    with stream(lib) as first, stream(lib) as second:
        for t, g in enumerate(given):
            now = (first, second)[t % 2]
            with now if lib.name == "cupy" else lib.module.cuda.stream(now):
                on_gpu.step(g)
            now.synchronize()
            on_cpu.step(grads[t])
    same(fetched(lib, there), host)


def test_sums_wait_for_the_current_stream(lib: Lib) -> None:
    """CuPy's own stream, on which they would be read, waits for no other."""
    rng = np.random.default_rng(4)
    host, *grads = (rng.standard_normal(10**7, np.float32) for _ in range(4))
    there, given = put(lib, host), [put(lib, g) for g in grads]
    lib.module.cuda.Device().synchronize() if lib.name == "cupy" else lib.module.cuda.synchronize()
    rule = rules.Clipped(rules.Adam(), norm=1.0)
    on_gpu, on_cpu = Optimizer(there, rule), Optimizer(host, rule)
    with stream(lib) as mine:
        for g in given:
            on_gpu.step(g)
        mine.synchronize()
    for g in grads:
        on_cpu.step(g)
    same(fetched(lib, there), host)


@pytest.mark.promise("While a stream is captured, a step raises and changes nothing.")
@pytest.mark.parametrize("engine", [None, "eager"])
def test_while_a_stream_is_captured_a_step_raises_and_changes_nothing(
    lib: Lib, engine: str | None
) -> None:
    p, g = lib.array([1.0, 2.0], "float32"), lib.array([1.0, 1.0], "float32")
    opt = Adam({"w": p}, lr=0.5, engine=engine)
    for steps in range(2):  # before there is a plan, and after
        with captured(lib):
            g + 1  # so that the graph is not empty, and the capture is seen to go on
            with pytest.raises(RuntimeError, match=r"^'w': .*captured.*bias correction"):
                opt.step({"w": g})
            g + 1
        assert opt.steps == {"w": steps}
        assert lib.numpy(p).tolist() == [1.0 - 0.5 * steps, 2.0 - 0.5 * steps]
        opt.step({"w": g})


@contextlib.contextmanager
def captured(lib: Lib) -> Iterator[None]:
    cuda = lib.module.cuda
    lib.array([1.0, 1.0], "float32") + 1  # compiled and allocated before
    if lib.name == "torch":
        with cuda.graph(cuda.CUDAGraph()):
            yield
        return
    made = cuda.Stream(non_blocking=True)
    cuda.Device().synchronize()
    with made:
        made.begin_capture()
        try:
            yield
        finally:
            made.end_capture()  # raises if something has spoilt the capture


@pytest.mark.promise(
    "A GPU updates all of more than 2^31 elements, and writes nothing beyond them.",
    defect="D7",
    seen=["DeepSpeed#7640", "apex#1654", "ms-swift#10023"],
)
def test_more_than_2_to_the_31_elements(lib: Lib) -> None:
    xp, n, guard = lib.module, 2**31 + 5, 64
    free = (xp.cuda.runtime.memGetInfo() if lib.name == "cupy" else xp.cuda.mem_get_info())[0]
    if free < 34e9:
        pytest.skip(f"{free / 1e9:.0f} GB are free on the GPU: it takes 34 GB")
    options = {"dtype": xp.float16} | ({"device": "cuda"} if lib.name == "torch" else {})
    whole = xp.full((n + guard,), 7.0, **options)
    p, g = whole[:n], xp.full((n,), 1.0, **options)
    p[...] = 1.0
    opt = Adam(p, lr=1.0)
    assert opt.explain()[0].engine == "cuda"
    opt.step(g)
    for i in (0, 2**31 - 1, 2**31, n - 1):
        assert float(p[i]) == 0.0
    step = 2**28
    assert all(bool((p[i : i + step] == 0).all()) for i in range(0, n, step))
    assert whole[n:].tolist() == [7.0] * guard
    del whole, p, g, opt
    if lib.name == "cupy":
        xp.get_default_memory_pool().free_all_blocks()
    else:
        xp.cuda.empty_cache()
