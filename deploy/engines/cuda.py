"""The CUDA runtime through ctypes: device attributes, memory and streams, without a package to install on a board.

Names and numbers are those of NVIDIA's "CUDA Runtime API", modules Device Management, Memory Management and Stream
Management; they have been the same since CUDA 10.
"""

from __future__ import annotations

import ctypes
import importlib.util
import weakref
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

LIBRARIES = (
    "libcudart.so",
    *(f"libcudart.so.{major}" for major in (13, 12, "11.0", "10.2")),
    "/usr/local/cuda/lib64/libcudart.so",
)
WHEELS = ("nvidia.cuda_runtime", "nvidia.cu13")
TO_DEVICE, TO_HOST = 1, 2
"""``cudaMemcpyHostToDevice`` and ``cudaMemcpyDeviceToHost``."""
MULTIPROCESSORS, MAJOR, MINOR = 16, 75, 76
"""``cudaDevAttrMultiProcessorCount``, ``cudaDevAttrComputeCapabilityMajor`` and ``...Minor``."""


class CudaError(RuntimeError):
    """Failure of a call to the CUDA runtime, or its absence; carries CUDA's message."""


@cache
def runtime() -> Any:
    """Load the CUDA runtime's library.

    Raises:
        CudaError: there is none.
    """
    for name in (*LIBRARIES, *_in_wheels()):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        return library
    raise CudaError("no CUDA runtime (libcudart.so) in reach; it comes with JetPack, or with the CUDA toolkit")


def _in_wheels() -> list[str]:
    """Return the paths of runtimes that pip installed."""
    paths: list[str] = []
    for name in WHEELS:
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            paths += [str(path) for path in sorted(Path(folder).glob("lib/libcudart.so.*"))]
    return paths


def call(name: str, *arguments: Any) -> None:
    """Call the function ``name`` of the runtime.

    Raises:
        CudaError: it returned an error.
    """
    code = getattr(runtime(), name)(*arguments)
    if code != 0:
        raise CudaError(f"{name}: {runtime().cudaGetErrorString(code).decode()} (CUDA error {code})")


def compute_capability() -> str:
    """Return the compute capability of the first GPU, such as ``8.7``.

    Raises:
        CudaError: there is no GPU or no runtime.
    """
    return f"{_attribute(MAJOR)}.{_attribute(MINOR)}"


def detect_compute_capability() -> str | None:
    """Return the compute capability of the first GPU, such as ``8.7``; None without one."""
    try:
        return compute_capability()
    except CudaError:
        return None


def multiprocessors() -> int:
    """Count the streaming multiprocessors that are on now: power modes of a Jetson switch some off."""
    return _attribute(MULTIPROCESSORS)


def _attribute(number: int) -> int:
    value = ctypes.c_int()
    call("cudaDeviceGetAttribute", ctypes.byref(value), number, 0)
    return value.value


@final
class Stream:
    """A queue of work on the GPU; ``handle`` is its address."""

    def __init__(self) -> None:
        pointer = ctypes.c_void_p()
        call("cudaStreamCreate", ctypes.byref(pointer))
        self.handle = int(pointer.value or 0)
        weakref.finalize(self, runtime().cudaStreamDestroy, ctypes.c_void_p(self.handle))

    def wait(self) -> None:
        """Wait until all of its work is done."""
        call("cudaStreamSynchronize", ctypes.c_void_p(self.handle))


@final
class Tensor:
    """An array in page-locked memory of the host, with a buffer on the GPU.

    Attributes:
        host: the array; write inputs to it, read outputs from it.
        address: address of the buffer on the GPU.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        kind = np.dtype(dtype)
        self._bytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        host, device = ctypes.c_void_p(), ctypes.c_void_p()
        size = ctypes.c_size_t(max(self._bytes, 1))
        call("cudaHostAlloc", ctypes.byref(host), size, 0)
        weakref.finalize(self, runtime().cudaFreeHost, host)
        call("cudaMalloc", ctypes.byref(device), size)
        weakref.finalize(self, runtime().cudaFree, device)
        raw = np.ctypeslib.as_array(ctypes.cast(host, ctypes.POINTER(ctypes.c_uint8)), (size.value,))
        self.host: npt.NDArray[Any] = raw[: self._bytes].view(kind).reshape(shape)
        self._host, self._device = host, device
        self.address = int(device.value or 0)

    def upload(self, stream: Stream) -> None:
        """Queue the copy to the GPU."""
        self._copy(self._device, self._host, TO_DEVICE, stream)

    def download(self, stream: Stream) -> None:
        """Queue the copy to the host."""
        self._copy(self._host, self._device, TO_HOST, stream)

    def _copy(self, to: ctypes.c_void_p, source: ctypes.c_void_p, kind: int, stream: Stream) -> None:
        call("cudaMemcpyAsync", to, source, ctypes.c_size_t(self._bytes), kind, ctypes.c_void_p(stream.handle))
