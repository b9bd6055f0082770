"""Operators, each as a readable reference, a fast CPU path and Triton kernels, behind one dispatch.

They are `torch.library` custom operators with gradients; `adamw_step`, which changes its inputs, and `similarity_sketch`, on
integers, have none. Which implementation runs follows the device of the data; `use_backend` or the
environment variable TILTH_KERNELS names one instead. A backend that cannot run raises `BackendError`: there is no silent
fallback.
"""

from __future__ import annotations

from tilth.kernels.adamw import adamw_step
from tilth.kernels.adamw.optimizer import FusedAdamW
from tilth.kernels.attention import attention
from tilth.kernels.backend import BACKENDS, choose_backend, use_backend
from tilth.kernels.linear_cross_entropy import cross_entropy, linear_cross_entropy
from tilth.kernels.rms_norm import rms_norm
from tilth.kernels.sign_matmul import sign_matmul, sign_matmul_grouped
from tilth.kernels.similarity_sketch import similarity_sketch
from tilth.kernels.ssd_scan import ssd_scan

__all__ = [
    "BACKENDS",
    "FusedAdamW",
    "adamw_step",
    "attention",
    "choose_backend",
    "cross_entropy",
    "linear_cross_entropy",
    "rms_norm",
    "sign_matmul",
    "sign_matmul_grouped",
    "similarity_sketch",
    "ssd_scan",
    "use_backend",
]
