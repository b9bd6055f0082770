"""Operators, each as a readable reference, a fast CPU path and Triton kernels, behind one dispatch.

All but one are `torch.library` custom operators with gradients; `similarity_sketch` is one on integers, which signs
documents. Which implementation runs follows the device of the data; `use_backend` or the
environment variable TILTH_KERNELS names one instead. A backend that cannot run raises `BackendError`: there is no silent
fallback.
"""

from __future__ import annotations

from tilth.kernels.attention import attention
from tilth.kernels.backend import BACKENDS, choose_backend, use_backend
from tilth.kernels.embedding import embedding
from tilth.kernels.rms_norm import rms_norm
from tilth.kernels.rope import rope
from tilth.kernels.similarity_sketch import similarity_sketch
from tilth.kernels.ssd_scan import ssd_scan
from tilth.kernels.swiglu import swiglu

__all__ = [
    "BACKENDS",
    "attention",
    "choose_backend",
    "embedding",
    "rms_norm",
    "rope",
    "similarity_sketch",
    "ssd_scan",
    "swiglu",
    "use_backend",
]
