"""What `auto` chooses, what it says, and what it costs in accuracy."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from etc import precision
from etc.precision import autocast, chosen_dtype, cpu_bfloat16, log_choice

CPU = torch.device("cpu")


@pytest.fixture
def cpu_has(monkeypatch):
    """Sets what the CPU is said to compute."""
    log_choice.cache_clear()
    return lambda **features: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)


@pytest.mark.parametrize(
    ("features", "dtype", "line"),
    [
        ({"avx512_bf16": True, "amx_bf16": True}, torch.bfloat16, "bfloat16, as the CPU has avx512_bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16, "bfloat16, as the CPU has amx_bf16"),
        ({"neon": True, "bf16": True}, torch.bfloat16, "bfloat16, as the CPU has bf16"),
        ({"avx512_f": True}, torch.float32, "float32, as the CPU has none of avx512_bf16, amx_bf16, bf16"),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_computes_it_and_says_why_once(cpu_has, caplog, features, dtype, line):
    cpu_has(**features)
    assert chosen_dtype("auto", CPU) == dtype
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            log_choice("TEST.amp", "auto", CPU)
            log_choice("TEST.amp", "off", CPU)
    assert caplog.messages == [f"TEST.amp auto: {line}"]


@pytest.mark.parametrize("native", [True, False])
def test_auto_does_not_take_what_a_gpu_emulates(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert chosen_dtype("auto", torch.device("cuda:0")) == (torch.bfloat16 if native else torch.float32)


def test_auto_keeps_float32_on_other_devices():
    assert chosen_dtype("auto", torch.device("mps")) == torch.float32


def test_what_is_stated_does_not_depend_on_the_machine(cpu_has):
    cpu_has()
    assert [chosen_dtype(amp, CPU) for amp in ("off", "float16", "bfloat16")] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the second opinion is Linux's /proc/cpuinfo")
def test_linux_says_the_same_of_this_cpu_as_torch(monkeypatch):
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch has no torch.cpu.get_capabilities")
    stated = cpu_bfloat16()
    monkeypatch.delattr(precision.torch.cpu, "get_capabilities")
    assert cpu_bfloat16() == stated


def test_only_convolutions_in_the_block_are_of_the_type_and_float32_changes_nothing():
    torch.manual_seed(0)
    conv, image = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 9)
    exact = conv(image)
    with autocast(torch.float32, CPU):
        assert torch.equal(conv(image), exact)
    with autocast(torch.bfloat16, CPU):
        rounded = conv(image)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.02, atol=0.02)
