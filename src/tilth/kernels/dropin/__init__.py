"""Tilth's operators under the names, shapes and options of the libraries that models are written for.

    from tilth.kernels.dropin.flash_attn import flash_attn_func          instead of  from flash_attn import ...
    from tilth.kernels.dropin.mamba_ssm import mamba_chunk_scan_combined
    from tilth.kernels.dropin.causal_conv1d import causal_conv1d_fn
    from tilth.kernels.dropin.bitdelta import binary_bmm

One module a library; each function only renames, reorders and reshapes (by views). What is not offered is not a
parameter, so that a call which needs it fails at once. The orders of positional arguments after q, k, v differ between
FlashAttention 2, 3 and 4, so these are keyword-only here.
"""
