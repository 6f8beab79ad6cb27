"""flownet/ops/backend.py: cupy is used only where it can compile and run a kernel."""

import sys
import types

import pytest

from flownet.ops import backend


@pytest.fixture(autouse=True)
def anew():
    backend._cupy_found.cache_clear()
    yield
    backend._cupy_found.cache_clear()


def fake_cupy(monkeypatch, raw_kernel) -> None:
    module = types.ModuleType("cupy")
    module.RawKernel = raw_kernel
    monkeypatch.setitem(sys.modules, "cupy", module)


def test_without_cupy_the_torch_backend_runs(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not backend._cupy_found()
    assert "with cupy installed they are faster" in caplog.text


def test_cupy_that_cannot_run_a_kernel_is_not_used_and_the_reason_is_logged(monkeypatch, caplog):
    def no_compiler(code, name):
        raise RuntimeError("cannot load libnvrtc.so.13\nmore")

    fake_cupy(monkeypatch, no_compiler)
    assert not backend._cupy_found()
    assert "cupy does not work here: cannot load libnvrtc.so.13" in caplog.text and "more" not in caplog.text


def test_cupy_that_runs_a_kernel_is_used(monkeypatch):
    launched = []
    fake_cupy(monkeypatch, lambda code, name: lambda *launch: launched.append((name, launch)))
    assert backend._cupy_found() and launched == [("nothing", ((1,), (1,), ()))]
