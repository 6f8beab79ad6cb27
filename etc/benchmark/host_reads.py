"""What makes the host wait for the device, found on tensors of the CPU, or on fake ones of a device."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result, or the size of it, the host learns from the values.
READING = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
COPYING = {"aten::_to_copy", "aten::copy_", "aten::_copy_from"}
# Conversions of the CPU's tensors that no operator is called for.
METHODS = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.cpu: "cpu", Tensor.__array__: "__array__"}


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str], excepted: tuple[str, ...]) -> None:
        super().__init__()
        self.found, self.excepted = found, excepted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = _waiting(func._schema.name, args, kwargs or {})
        if name and not _is_called_from(self.excepted):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, found: list[str], excepted: tuple[str, ...]) -> None:
        super().__init__()
        self.found, self.excepted = found, excepted

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in METHODS and not _is_called_from(self.excepted):
            self.found.append(METHODS[func])
        return func(*args, **(kwargs or {}))


def _is_called_from(files: tuple[str, ...]) -> bool:
    return any(frame.filename.endswith(files) for frame in traceback.extract_stack())


def _waiting(name: str, args: tuple, kwargs: dict) -> str | None:
    """The name of an operation that the host waits for."""
    if name in READING:
        return name
    if name in INDEXING and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]):
        return f"{name} by a mask"
    if name in COPYING:
        tensors = [x for x in args if isinstance(x, Tensor)]
        source = tensors[-1].device
        target = kwargs.get("device") or tensors[0].device
        blocking = not (kwargs.get("non_blocking") or (name != "aten::_to_copy" and len(args) > 2 and args[2]))
        if source.type != target.type and (blocking or target.type == "cpu"):
            return f"{name} from {source.type} to {target.type}"
    return None


@contextmanager
def host_reads(*, excepted: tuple[str, ...] = ("none",)) -> Iterator[list[str]]:
    """Notes, in the list that it gives, every operation in the ``with`` block that the host waits for.

    On tensors of the CPU, on which nothing is waited for, it finds the operations that would be waited for if they lay
    on a GPU. Copies between devices are found where there are some, as fake ones (``FakeTensorMode``).

    Args:
        excepted: ends of file names; what is called from those files is not noted.
    """
    found: list[str] = []
    with _Operators(found, excepted), _Methods(found, excepted):
        yield found
