"""Operators, each as a readable reference, a fast CPU path and Triton kernels, behind one dispatch.

`rms_norm`, `attention` and `ssd_scan` are `torch.library` custom operators with gradients; `similarity_sketch` is one on
integers, which signs documents, and `ssd_step` one that updates states in place. Which implementation runs follows the
device of the data; `use_backend` or the environment variable TILTH_KERNELS names one instead. A backend that cannot run
raises `BackendError`: there is no silent fallback.
"""

from __future__ import annotations

from tilth.kernels.attention import attention
from tilth.kernels.backend import BACKENDS, choose_backend, use_backend
from tilth.kernels.rms_norm import rms_norm
from tilth.kernels.similarity_sketch import similarity_sketch
from tilth.kernels.ssd_scan import ssd_scan
from tilth.kernels.ssd_step import ssd_step

__all__ = ["BACKENDS", "attention", "choose_backend", "rms_norm", "similarity_sketch", "ssd_scan", "ssd_step", "use_backend"]
