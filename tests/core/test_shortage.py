"""Shortage of memory: one sentence and exit code 2, whichever library runs out of it."""

import pytest
import torch

import lumen.__main__ as program
from lumen.__main__ import main
from lumen.core.errors import explain_shortage

SHORTAGES = [
    MemoryError(),
    MemoryError("Unable to allocate 3.00 TiB for an array with shape (1000000,)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("could not create a primitive"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
    OSError(12, "Cannot allocate memory"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]
OTHERS = [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError(""), ImportError("No module named 'x'")]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: str(error)[:30] or "MemoryError")
def test_shortage_of_memory_is_one_sentence(error, monkeypatch, capsys):
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(program, "_run", fail)
    assert main(["list"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lumen: memory ran short (") and "smaller batch" in line


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_shortage_is_not_seen_in_other_errors(error):
    assert explain_shortage(error) is None
