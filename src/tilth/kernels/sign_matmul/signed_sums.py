"""Products with signs, compiled: of a few rows the reading of the matrix is most of the work, and here a weight is one bit.

Two ways to add up the inputs whose signs a word holds. By selection: eight inputs at a time, each added or subtracted, for
many outputs side by side, in the vectors of whatever CPU LLVM compiles for. By tables, where there is AVX-512: the 16 sums that
four signs can make of four inputs are one register, out of which four bits of 16 words choose with one instruction; it is three
times as fast, and then waits for the memory. The order in which an output is summed depends on neither the number of threads
nor the other rows.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor

from tilth.kernels.sign_matmul.packing import WORD_BITS

# Signs below which a second thread costs more than it does.
_FEWEST_SIGNS = 1 << 22
_BITS = (np.uint32(1) << np.arange(WORD_BITS, dtype=np.uint32)).view(np.int32)
_LANES = 16
# Words that are fetched ahead of use: left to the CPU, which stops at each page, half of the time would be spent waiting.
_AHEAD = 2048
# Words of which a sum is made, before these sums are added: one long sum would lose more than torch does.
_RUN = 16
_TABLES = WORD_BITS // 4
# What stands for scales that are not there, by type.
_NONE = {
    dtype: (np.empty(0, name), np.empty((0, 0), name), np.empty((0, 0), name))
    for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64"))
}


def add_products(
    y_MN: Tensor,
    x_MK: Tensor,
    packed_EPN: Tensor,
    tenants_M: Tensor,
    scale_E: Tensor | None,
    row_scale_EN: Tensor | None,
    column_scale_EK: Tensor | None,
    *,
    by_tables: bool | None = None,
) -> None:
    """Add to each row of y the product of that of x with the signs and scales of its tenant (int32; -1 for none).

    y is contiguous, of one type with x: float32 or float64. by_tables: which of the two ways, by default the faster there is.
    """
    dtype = x_MK.dtype
    arrays = [tensor.detach().contiguous().numpy() for tensor in (y_MN, x_MK, tenants_M)]
    scales = [
        none if scale is None else scale.detach().to(dtype).contiguous().numpy()
        for scale, none in zip((scale_E, row_scale_EN, column_scale_EK), _NONE[dtype], strict=True)
    ]
    way = _by_tables if (has_tables(dtype) if by_tables is None else by_tables) else _by_selection
    run = functools.partial(way, packed_EPN.contiguous().numpy(), *scales)
    n_threads = torch.get_num_threads()
    if n_threads > 1:
        n_threads = max(1, min(n_threads, len(x_MK), x_MK.numel() * y_MN.shape[1] // _FEWEST_SIGNS))
    if n_threads == 1:
        run(*arrays)
        return
    first, *others = zip(*(np.array_split(array, n_threads) for array in arrays), strict=True)
    running = [_threads(os.getpid()).submit(run, *parts) for parts in others]
    run(*first)
    for part in running:
        part.result()


@functools.cache
def has_tables(dtype: torch.dtype) -> bool:
    """Whether sums of that type can be looked up: float32, compiled for this CPU, which has AVX-512."""
    is_this = numba.config.CPU_NAME is None and numba.config.CPU_FEATURES is None
    return dtype == torch.float32 and is_this and bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads of a process: a fork has none of its parent's."""
    return ThreadPoolExecutor(thread_name_prefix="sign_matmul")


@njit(cache=True, nogil=True)
def _by_selection(
    packed_EPN: Any, scale_E: Any, row_scale_EN: Any, column_scale_EK: Any, y_MN: Any, x_MK: Any, tenants_M: Any
) -> None:
    n_words = packed_EPN.shape[1]
    x, sums, totals = _scratch(n_words, y_MN)
    for m in range(len(x_MK)):
        e = tenants_M[m]
        if e >= 0:
            _scale(x, x_MK[m], column_scale_EK, e)
            totals[:] = 0
            for start in range(0, n_words, _RUN):
                sums[:] = 0
                for p in range(start, min(start + _RUN, n_words)):
                    _select(x[p], packed_EPN[e, p], sums)
                totals += sums
            _add(y_MN[m], totals, scale_E, row_scale_EN, e)


@njit(cache=True, nogil=True)
def _by_tables(
    packed_EPN: Any, scale_E: Any, row_scale_EN: Any, column_scale_EK: Any, y_MN: Any, x_MK: Any, tenants_M: Any
) -> None:
    n_words = packed_EPN.shape[1]
    x, sums, totals = _scratch(n_words, y_MN)
    tables = np.empty((_TABLES, _LANES), y_MN.dtype)
    whole = len(sums) // _LANES * _LANES
    for m in range(len(x_MK)):
        e = tenants_M[m]
        if e >= 0:
            _scale(x, x_MK[m], column_scale_EK, e)
            totals[:] = 0
            for start in range(0, n_words, _RUN):
                sums[:] = 0
                for p in range(start, min(start + _RUN, n_words)):
                    _tabulate(x[p], tables)
                    _look_up(tables, packed_EPN[e, p, :whole], sums[:whole])
                    _select(x[p], packed_EPN[e, p, whole:], sums[whole:])
                totals += sums
            _add(y_MN[m], totals, scale_E, row_scale_EN, e)


@njit(cache=True, nogil=True)
def _scratch(n_words: int, y_MN: Any) -> Any:
    """Return room for the inputs of each word of a row, zeros, and twice for its sums."""
    n_outputs = y_MN.shape[1]
    return np.zeros((n_words, WORD_BITS), y_MN.dtype), np.empty(n_outputs, y_MN.dtype), np.empty(n_outputs, y_MN.dtype)


@njit(cache=True, nogil=True)
def _scale(scaled_PJ: Any, x: Any, column_scale_EK: Any, e: int) -> None:
    """Write x, times the scales of its tenant if there are any; what lies past its end stays 0."""
    scaled = scaled_PJ.ravel()
    for k in range(len(x)):
        scaled[k] = x[k] * column_scale_EK[e, k] if column_scale_EK.size else x[k]


@njit(cache=True, nogil=True)
def _add(y: Any, sums: Any, scale_E: Any, row_scale_EN: Any, e: int) -> None:
    """Add the sums to y, times the scales of their tenant if there are any."""
    for n in range(len(y)):
        total = sums[n]
        if scale_E.size and row_scale_EN.size:
            total *= scale_E[e] * row_scale_EN[e, n]
        elif scale_E.size:
            total *= scale_E[e]
        elif row_scale_EN.size:
            total *= row_scale_EN[e, n]
        y[n] += total


@njit(cache=True, nogil=True)
def _select(x: Any, words: Any, sums: Any) -> None:
    """Add to each sum the 32 inputs, each minus where its bit of the output's word is 0."""
    for i in range(0, WORD_BITS, 8):
        x0, x1, x2, x3, x4, x5, x6, x7 = x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7]
        b0, b1, b2, b3 = _BITS[i], _BITS[i + 1], _BITS[i + 2], _BITS[i + 3]
        b4, b5, b6, b7 = _BITS[i + 4], _BITS[i + 5], _BITS[i + 6], _BITS[i + 7]
        for n in range(len(words)):
            word = words[n]
            first = (x0 if word & b0 else -x0) + (x1 if word & b1 else -x1)
            second = (x2 if word & b2 else -x2) + (x3 if word & b3 else -x3)
            third = (x4 if word & b4 else -x4) + (x5 if word & b5 else -x5)
            fourth = (x6 if word & b6 else -x6) + (x7 if word & b7 else -x7)
            sums[n] += (first + second) + (third + fourth)


@njit(cache=True, nogil=True)
def _tabulate(x: Any, tables: Any) -> None:
    """Write, for each four inputs, the sums that the 16 patterns of their signs make."""
    for q in range(_TABLES):
        a, b, c, d = x[4 * q], x[4 * q + 1], x[4 * q + 2], x[4 * q + 3]
        for i in range(_LANES):
            first = (a if i & 1 else -a) + (b if i & 2 else -b)
            tables[q, i] = first + ((c if i & 4 else -c) + (d if i & 8 else -d))


@intrinsic
def _look_up(_typing: Any, tables: Any, words: Any, sums: Any) -> Any:
    """Add to each sum what the eight tables (8, 16) hold for the bits of its word, the lowest first.

    Tables and sums are float32; all are contiguous, and the number of words is a multiple of 16.
    In numpy: sums += sum(tables[q, words >> 4 * q & 15] for q in range(8)).
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        floats, ints = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(ir.IntType(32), _LANES)
        given = [context.make_array(kind)(context, builder, value) for kind, value in zip(signature.args, arguments, strict=True)]
        (n_words,) = cgutils.unpack_tuple(builder, given[1].shape, 1)
        permute_type = ir.FunctionType(floats, [floats, ints])
        permute = cgutils.get_or_insert_function(builder.module, permute_type, "llvm.x86.avx512.permvar.sf.512")
        byte, int32 = ir.IntType(8), ir.IntType(32)
        fetch_type = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), int32, int32, int32])
        fetch = cgutils.get_or_insert_function(builder.module, fetch_type, "llvm.prefetch.p0")
        fetch_how = [ir.Constant(int32, how) for how in (0, 3, 1)]  # to be read, into the first cache, as data

        def place(array: Any, index: Any, kind: Any) -> Any:
            return builder.bitcast(builder.gep(array.data, [index]), kind.as_pointer())

        def number(value: int) -> Any:
            return ir.Constant(n_words.type, value)

        registers = [builder.load(place(given[0], number(_LANES * q), floats), align=4) for q in range(_TABLES)]
        with cgutils.for_range_slice(builder, number(0), n_words, number(_LANES), n_words.type) as (n, _):
            builder.call(fetch, [place(given[1], builder.add(n, number(_AHEAD)), byte), *fetch_how])
            word = builder.load(place(given[1], n, ints), align=4)
            shifted = [builder.lshr(word, ir.Constant(ints, [4 * q] * _LANES)) for q in range(_TABLES)]
            found = [builder.call(permute, pair) for pair in zip(registers, shifted, strict=True)]
            while len(found) > 1:
                found = [builder.fadd(a, b) for a, b in zip(found[::2], found[1::2], strict=True)]
            at = place(given[2], n, floats)
            builder.store(builder.fadd(builder.load(at, align=4), found[0]), at, align=4)
        return context.get_dummy_value()

    return types.void(tables, words, sums), generate
