"""The calls of the CUDA runtime: names against NVIDIA's own library, and memory against a stand-in in C."""

import ctypes
import gc
import shutil
import subprocess

import numpy as np
import pytest

from deploy.engines import cuda

STAND_IN = """
#include <stdlib.h>
#include <string.h>
static long live, queued;
int cudaStreamCreate(void **stream) { *stream = (void *)0x7f1234567890; return 0; }
int cudaStreamDestroy(void *stream) { return 0; }
int cudaStreamSynchronize(void *stream) { return stream == (void *)0x7f1234567890 ? 0 : 1; }
int cudaHostAlloc(void **at, size_t bytes, unsigned flags) { live++; *at = malloc(bytes); return flags; }
int cudaMalloc(void **at, size_t bytes) { live++; *at = malloc(bytes); return *at == 0; }
int cudaFreeHost(void *at) { live--; free(at); return 0; }
int cudaFree(void *at) { live--; free(at); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
  if (stream != (void *)0x7f1234567890) return 1;
  queued += kind; memcpy(to, from, bytes); return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 16 ? 8 : attribute == 75 ? 8 : attribute == 76 ? 7 : -1; return device;
}
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "unknown"; }
long stand_in_live(void) { return live; }
long stand_in_queued(void) { return queued; }
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A library of the runtime's names whose GPU memory is the host's."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "cudart.c").write_text(STAND_IN)
    library = tmp_path / "libcudart_stand_in.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "cudart.c"], check=True)
    monkeypatch.setattr(cuda, "LIBRARIES", (str(library),))
    cuda.runtime.cache_clear()
    yield cuda.runtime()
    cuda.runtime.cache_clear()


def test_the_real_library_has_every_call_and_says_why_there_is_no_gpu():
    try:
        real = cuda.runtime()
    except cuda.CudaError:
        pytest.skip("no CUDA runtime in reach; pip install nvidia-cuda-runtime-cu12")
    lines = STAND_IN.splitlines()
    names = [line.partition("(")[0].split()[-1].lstrip("*") for line in lines if " cuda" in line or "*cuda" in line]
    assert len(names) == 10
    assert all(hasattr(real, name) for name in names)
    count = ctypes.c_int()
    if real.cudaGetDeviceCount(ctypes.byref(count)) == 0 and count.value:
        assert float(cuda.compute_capability()) > 3
        return
    with pytest.raises(cuda.CudaError, match=r"cudaDeviceGetAttribute: .*CUDA.*\(CUDA error \d+\)"):
        cuda.compute_capability()


def test_facts_of_the_gpu(stand_in):
    assert cuda.compute_capability() == "8.7"
    assert cuda.multiprocessors() == 8


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int64", "bool"])
def test_what_is_uploaded_is_what_is_downloaded(stand_in, dtype):
    stream, tensor = cuda.Stream(), cuda.Tensor((2, 3, 5), dtype)
    values = np.random.default_rng(0).integers(0, 2, (2, 3, 5)).astype(dtype)
    tensor.host[...] = values
    tensor.upload(stream)
    tensor.host[...] = 0
    tensor.download(stream)
    stream.wait()
    np.testing.assert_array_equal(tensor.host, values)
    assert tensor.host.dtype == dtype
    assert stand_in.stand_in_queued() == cuda.TO_DEVICE + cuda.TO_HOST


def test_memory_is_given_back(stand_in):
    tensor = cuda.Tensor((4,), "float32")
    assert stand_in.stand_in_live() == 2
    del tensor
    gc.collect()
    assert stand_in.stand_in_live() == 0


def test_an_error_carries_cudas_words(stand_in):
    stream = cuda.Stream()
    stream.handle = 1
    with pytest.raises(cuda.CudaError, match=r"cudaStreamSynchronize: unknown \(CUDA error 1\)"):
        stream.wait()


def test_no_runtime_is_said(monkeypatch):
    monkeypatch.setattr(cuda, "LIBRARIES", ())
    monkeypatch.setattr(cuda, "WHEELS", ())
    cuda.runtime.cache_clear()
    with pytest.raises(cuda.CudaError, match="no CUDA runtime"):
        cuda.runtime()
    cuda.runtime.cache_clear()
