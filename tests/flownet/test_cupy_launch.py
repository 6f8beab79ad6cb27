"""How the backend is chosen, and what reaches cupy: both without a GPU."""

import contextlib
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from flownet.ops import backend, cupy_backend


@pytest.fixture
def fresh_choice():
    backend._cupy_found.cache_clear()
    yield
    backend._cupy_found.cache_clear()


@pytest.mark.parametrize("installed", [True, False])
def test_auto_takes_cupy_for_cuda_tensors_where_it_works_and_says_so_once(monkeypatch, caplog, fresh_choice, installed):
    working = SimpleNamespace(RawKernel=lambda code, name: lambda *launch: None)
    monkeypatch.setitem(sys.modules, "cupy", working if installed else None)
    caplog.set_level(logging.INFO)
    with FakeTensorMode():
        on_gpu = torch.empty(1, 3, 4, 4, device="cuda")
    assert [backend.use_cupy("auto", on_gpu) for _ in range(3)] == [installed] * 3
    assert not backend.use_cupy("auto", on_gpu.double())
    assert not backend.use_cupy("auto", torch.empty(1, 3, 4, 4))
    assert not backend.use_cupy("torch", on_gpu)
    (record,) = caplog.records
    assert ("cupy backend" if installed else "torch backend") in record.message
    assert record.levelno == (logging.INFO if installed else logging.WARNING)


class FakeCupy:
    """Writes down in order what is entered, compiled and launched."""

    def __init__(self):
        self.events = []
        stream_class = SimpleNamespace(from_external=lambda stream: self.entered("stream", stream.cuda_stream))
        self.cuda = SimpleNamespace(Device=lambda index: self.entered("device", index), Stream=stream_class)

    @contextlib.contextmanager
    def entered(self, kind, value):
        self.events.append((kind, value))
        yield

    def RawModule(self, *, code, options):
        self.events.append(("compiled", options))
        return SimpleNamespace(get_function=self.get_function)

    def get_function(self, name):
        self.events.append(("loaded", name))
        return lambda grid, block, values, *, shared_mem: self.events.append((name, grid, block, values, shared_mem))


def test_a_launch_enters_device_and_stream_and_compiles_and_loads_once_for_all_shapes(monkeypatch):
    cupy = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    stream = SimpleNamespace(cuda_stream=77, __cuda_stream__=lambda: (0, 77))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    cupy_backend._module.cache_clear()
    cupy_backend._function.cache_clear()
    try:
        for height in (300, 5, 7):
            x = torch.zeros(2, 3, height, 7)
            out = cupy_backend.channelnorm(x)
            name, grid, block, values, shared = cupy.events[-1]
            assert name == "channelnorm_forward"
            assert (grid, block, shared) == ((-(-2 * height * 7 // 256), 1), (256, 1), 0)
            assert values == (x.data_ptr(), out.data_ptr(), 2, 3, height * 7)
        assert cupy.events[-3:-1] == [("device", None), ("stream", 77)]
        # cupy loads a kernel for the current device: behind the guard, and not at every launch.
        assert [event[0] for event in cupy.events] == [
            *("device", "stream", "compiled", "loaded", "channelnorm_forward"),
            *("device", "stream", "channelnorm_forward") * 2,
        ]
        assert [event for event in cupy.events if event[0] == "compiled"] == [
            ("compiled", ("-std=c++17", "-DSCALAR=float"))
        ]
    finally:
        cupy_backend._module.cache_clear()
        cupy_backend._function.cache_clear()
