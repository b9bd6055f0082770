"""Four operators, each as a readable reference, a fast CPU path and Triton kernels, behind one dispatch.

`rms_norm`, `attention` and `ssd_scan` are `torch.library` custom operators with gradients; `similarity_sketch` is one on
integers, which signs documents. Which implementation runs follows the device of the data; `use_backend` or the
environment variable TILTH_KERNELS names one instead. A backend that cannot run raises `BackendError`: there is no silent
fallback.
"""

from __future__ import annotations

from tilth.kernels.attention import attention, attention_varlen
from tilth.kernels.backend import BACKENDS, choose_backend, use_backend
from tilth.kernels.rms_norm import rms_norm
from tilth.kernels.similarity_sketch import similarity_sketch
from tilth.kernels.ssd_scan import ssd_scan

__all__ = [
    "BACKENDS",
    "attention",
    "attention_varlen",
    "choose_backend",
    "rms_norm",
    "similarity_sketch",
    "ssd_scan",
    "use_backend",
]
