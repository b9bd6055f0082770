"""Runs Gluon kernels on a CPU: their own source as plain Python, with the Gluon language replaced by the one below.

    simulated = simulate(path_of_the_module, seed)        # its kernels run on the simulator when they are launched
    o, lse = simulated.forward(q, k, v, ...)              # launcher and kernels, on CPU tensors

Values are torch tensors of the kernel's own types, so that 16-bit rounding is that of the GPU; layouts are ignored.
Shared memory is NaN until it is written, and again while a copy into it is under way. gluon_machine.py has the order in
which things happen, and finds races and deadlocks. What only hardware shows is not simulated: layouts, registers, the
synchronisation of the threads of one warpgroup, which the compiler inserts.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from gluon_machine import Action, Barrier, Machine, Partition, Place, ProtocolError, join
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

_LAUNCH_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")


def simulate(path: Path, seed: int, *changes: tuple[str, str, str]) -> ModuleType:
    """Load the module at `path` with its kernels made for the simulator, each change (function, old, new text) made to its source."""
    source = path.read_text()
    for function, old, new in changes:
        start = source.index(f"def {function}(")
        body = source[start : source.find("\n\n\n", start)]
        if body.count(old) != 1:
            raise ValueError(f"{function} has {body.count(old)} times: {old}")
        source = source.replace(body, body.replace(old, new))
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    language = _Language(seed)

    def jit(fn: FunctionType | None = None, **_: Any) -> Any:
        return _Kernel(fn, language) if fn is not None else jit

    with mock.patch.object(gluon, "jit", jit):
        exec(compile(source, str(path), "exec"), module.__dict__)
    fakes = {id(gl): language, id(hopper): language.hopper, id(hopper.mbarrier): language.mbarrier, id(hopper.tma): language.tma}
    for kernel in [value for value in vars(module).values() if isinstance(value, _Kernel)]:
        kernel.look_up_in({name: fakes.get(id(value), _plain(value)) for name, value in vars(module).items()})
    return module


class _Kernel:
    """A gluon.jit function: called from another one it is called, launched over a grid it runs block by block."""

    def __init__(self, fn: FunctionType, language: _Language) -> None:
        self.fn, self.language = fn, language
        self._run: Callable[..., Any] = fn

    def look_up_in(self, names: dict[str, Any]) -> None:
        self._run = FunctionType(self.fn.__code__, {**names, "range": _range}, self.fn.__name__, self.fn.__defaults__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():  # of each thread
            return self._run(*args, **kwargs)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            values = [_argument(value) for value in args]
            named = {name: _argument(value) for name, value in kwargs.items() if name not in _LAUNCH_OPTIONS}
            blocks = list(itertools.product(*map(range, grid)))
            random.Random(self.language.seed).shuffle(blocks)
            for block in blocks:
                self.language.run(block, lambda: self(*values, **named))

        return launch


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, gl.constexpr) else value


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Pointer(
            value.as_strided((value.untyped_storage().nbytes() // value.element_size() - value.storage_offset(),), (1,))
        )
    if isinstance(value, TensorDescriptor):
        return Descriptor(value)
    return Whole(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _range(*bounds: int) -> Iterator[Whole]:
    return map(Whole, range(*bounds))


class Whole(int):
    """A scalar integer of a kernel: it divides like C, which is not what Python does below zero, and fits 32 bits."""

    def to(self, dtype: torch.dtype) -> Whole:
        return self if dtype == torch.int32 else Long(self)

    def _divide(self, other: Any, result: Any) -> Any:
        if int(self) < 0:
            raise ProtocolError(f"{int(self)} is divided, and rounds towards zero in a kernel")
        return self._keep(result)

    def _keep(self, result: Any) -> Any:
        if type(result) is not int:
            return result
        if not -(2**31) <= result < 2**31:
            raise ProtocolError(f"{result} does not fit 32 bits")
        return Whole(result)


class Long(Whole):
    """The same of 64 bits."""

    def _keep(self, result: Any) -> Any:
        return Long(result) if type(result) is int else result


def _arithmetic(name: str) -> Callable[[Any, Any], Any]:
    plain = getattr(int, name)

    def operate(self: Whole, other: Any) -> Any:
        kept = Long(self) if isinstance(other, Long) else self
        result = plain(int(self), int(other)) if isinstance(other, int) else plain(self, other)
        return kept._divide(other, result) if name in ("__floordiv__", "__mod__") else kept._keep(result)

    return operate


for _name in ("add", "sub", "mul", "floordiv", "mod", "and", "or", "xor"):
    setattr(Whole, f"__{_name}__", _arithmetic(f"__{_name}__"))
for _name in ("radd", "rsub", "rmul", "rand", "ror"):
    setattr(Whole, f"__{_name}__", _arithmetic(f"__{_name}__"))


class _Any:
    """Any layout: has every attribute, and takes every argument."""

    def __getattr__(self, name: str) -> _Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Any:
        return self


_ANY = _Any()
_BARRIERS = _Any()


class Registers(torch.Tensor):
    """A tensor in registers; like all values of a kernel it is never changed in place."""

    type = property(lambda self: _ANY)  # type: ignore[assignment]

    def __iadd__(self, other: Any) -> Any:
        return self + other

    def __imul__(self, other: Any) -> Any:
        return self * other

    def __isub__(self, other: Any) -> Any:
        return self - other


def _registers(value: Tensor) -> Registers:
    return value.as_subclass(Registers)


class Pointer:
    """Into the flat memory of one tensor; a load or store outside of it is an error."""

    def __init__(self, memory: Tensor, offset: Any = 0) -> None:
        self.memory, self.offset = memory, offset
        self.dtype = SimpleNamespace(element_ty=memory.dtype)

    def __add__(self, other: Any) -> Pointer:
        return Pointer(self.memory, self.offset + other)

    def places(self, mask: Any) -> Tensor:
        places = torch.as_tensor(self.offset, dtype=torch.int64)
        places = places[torch.as_tensor(mask).expand_as(places)] if mask is not None else places
        if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < self.memory.numel():
            raise ProtocolError(f"places {int(places.min())} to {int(places.max())} of a memory of {self.memory.numel()}")
        return places

    def load(self, mask: Any = None, other: Any = None) -> Any:
        places = self.places(mask)
        if not isinstance(self.offset, Tensor):
            value = self.memory[int(places)].item() if places.numel() == 1 else other
            return Whole(value) if isinstance(value, int) else value
        if mask is None:
            return _registers(self.memory[places])
        poison = float("nan") if self.memory.is_floating_point() else torch.iinfo(self.memory.dtype).max
        loaded = torch.full(self.offset.shape, poison if other is None else other, dtype=self.memory.dtype)
        loaded[torch.as_tensor(mask).expand(self.offset.shape)] = self.memory[places]
        return _registers(loaded)

    def store(self, value: Any, mask: Any = None) -> None:
        places = self.places(mask)
        value = torch.as_tensor(value, dtype=self.memory.dtype).expand(torch.as_tensor(self.offset).shape)
        self.memory[places] = value[torch.as_tensor(mask).expand_as(value)] if mask is not None else value


class Descriptor:
    """A tensor in tiles: what lies outside reads as zero, and is not written."""

    def __init__(self, host: TensorDescriptor) -> None:
        self.tensor = host.base.as_strided(tuple(host.shape), tuple(host.strides))
        self.dtype, self.layout, self.block_shape = host.base.dtype, host.layout, list(host.block_shape)
        self.shape = [Whole(size) for size in host.shape]
        self.block_type = SimpleNamespace(nbytes=math.prod(self.block_shape) * host.base.element_size())
        self.nbytes_per_cta = self.block_type.nbytes

    def cut(self, starts: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return the part of the tensor that a tile covers, and where it lies in the tile."""
        if len(starts) != len(self.block_shape):
            raise ProtocolError(f"a tile of {len(self.block_shape)} dimensions at {len(starts)} coordinates")
        spans = [
            (max(int(start), 0), max(min(int(start) + rows, int(size)), max(int(start), 0)))
            for start, rows, size in zip(starts, self.block_shape, self.shape, strict=True)
        ]
        outer = tuple(slice(*span) for span in spans)
        return outer, tuple(slice(low - int(start), high - int(start)) for (low, high), start in zip(spans, starts, strict=True))


@dataclass(eq=False)
class Shared:
    """A descriptor of shared memory: a view, and the places that it covers (one for each index of the first dimension)."""

    language: _Language
    memory: Tensor
    places: list[Place]

    @property
    def shape(self) -> list[int]:
        return list(self.memory.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.memory.dtype

    @property
    def type(self) -> _Any:
        return _ANY

    def index(self, i: int) -> Shared:
        if not 0 <= i < self.memory.shape[0]:
            raise ProtocolError(f"index {int(i)} of {self.memory.shape[0]} places")
        kept = [self.places[i]] if len(self.places) == self.memory.shape[0] else self.places
        return Shared(self.language, self.memory[int(i)], kept)

    def reshape(self, shape: Sequence[int]) -> Shared:
        return Shared(self.language, self.memory.view(tuple(shape)), self.places)

    def permute(self, order: Sequence[int]) -> Shared:
        return Shared(self.language, self.memory.permute(tuple(order)), self.places)

    def slice(self, start: int, length: int, dim: int = 0) -> Shared:
        return Shared(self.language, self.memory.narrow(dim, start, length), self.places)

    def load(self, layout: Any) -> Registers:
        partition = self.language.switch()
        for place in self.places:
            place.check_read(partition.clock, partition.name, is_async=False)
            place.reads[partition.name] = partition.clock[partition.name]
        return _registers(self.memory.clone())

    def store(self, value: Tensor) -> None:
        partition = self.language.switch()
        _check_tile(self.memory, list(value.shape), value.dtype, "a store")
        for place in self.places:
            place.check_write(partition.clock, partition.name)
            place.written, place.reads, place.unfenced = (partition.name, partition.clock[partition.name]), {}, partition
        self.memory.copy_(value)


@dataclass(eq=False)
class _Sum:
    """The result of a product: no value before the product happened, and none for the kernel before it was waited for."""

    shape: tuple[int, int]
    action: Action | None = None
    value: Tensor | None = None


class _Language:
    """`gl`, `hopper`, `mbarrier` and `tma` of a simulated kernel."""

    int1, int32, int64 = torch.bool, torch.int32, torch.int64
    float16, bfloat16, float32 = torch.float16, torch.bfloat16, torch.float32
    constexpr = gl.constexpr
    NVMMADistributedLayout = NVMMASharedLayout = SliceLayout = DotOperandLayout = BlockedLayout = AutoLayout = _ANY
    static_range = staticmethod(range)
    exp2, log2, where = staticmethod(torch.exp2), staticmethod(torch.log2), staticmethod(torch.where)

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.hopper = SimpleNamespace(
            fence_async_shared=self._fence, warpgroup_mma=self._multiply, warpgroup_mma_wait=self._wait_products
        )
        self.mbarrier = SimpleNamespace(
            MBarrierLayout=lambda: _BARRIERS, init=self._init, expect=self._expect, arrive=self._arrive, wait=self._wait
        )
        self.tma = SimpleNamespace(
            async_copy_global_to_shared=self._copy_in, async_copy_shared_to_global=self._copy_out, store_wait=self._wait_stores
        )
        self.machine: Machine
        self._block: tuple[int, ...] = ()

    def run(self, block: tuple[int, ...], kernel: Callable[[], Any]) -> None:
        self._block = block
        self.machine = Machine(f"{self.seed} {block}")
        self.machine.run(kernel)

    def switch(self) -> Partition:
        """Let the others run; return the partition that goes on."""
        partition = self.machine.current
        partition.pause()
        return partition

    # gl

    def program_id(self, axis: int) -> Whole:
        return Whole(self._block[axis])

    def static_assert(self, holds: bool, message: str = "") -> None:
        if not holds:
            raise ProtocolError(f"a static assertion fails: {message}")

    def cdiv(self, value: Whole, divisor: int) -> Any:
        return (value + (divisor - 1)) // divisor

    def maximum(self, a: Any, b: Any) -> Any:
        return torch.maximum(*_both(a, b)) if isinstance(a, Tensor) or isinstance(b, Tensor) else max(a, b)

    def minimum(self, a: Any, b: Any) -> Any:
        return torch.minimum(*_both(a, b)) if isinstance(a, Tensor) or isinstance(b, Tensor) else min(a, b)

    def max(self, value: Tensor, axis: int) -> Tensor:
        return value.amax(axis)

    def sum(self, value: Tensor, axis: int) -> Tensor:
        return value.sum(axis)

    def arange(self, start: int, end: int, layout: Any = None) -> Registers:
        return _registers(torch.arange(start, end, dtype=torch.int32))

    def full(self, shape: Sequence[int], value: float, dtype: torch.dtype, layout: Any = None) -> Registers:
        return _registers(torch.full(tuple(shape), value, dtype=dtype))

    def convert_layout(self, value: Tensor, layout: Any) -> Tensor:
        return value

    def load(self, pointer: Pointer, mask: Any = None, other: Any = None) -> Any:
        return pointer.load(mask, other)

    def store(self, pointer: Pointer, value: Any, mask: Any = None) -> None:
        pointer.store(value, mask)

    def allocate_shared_memory(self, dtype: torch.dtype, shape: Sequence[int], layout: Any) -> Any:
        if layout is _BARRIERS:
            barriers = [Barrier(f"barrier {len(self.machine.barriers) + i}") for i in range(shape[0])]
            self.machine.barriers += barriers
            return _Barriers(barriers)
        places = [Place(f"place {len(self.machine.places) + i}") for i in range(shape[0])]
        self.machine.places += places
        return Shared(self, torch.full(tuple(shape), float("nan"), dtype=dtype), places)

    def warp_specialize(
        self, functions: Sequence[tuple[Any, tuple[Any, ...]]], warps: Sequence[int], registers: Any = None
    ) -> Any:
        if len(warps) != len(functions) - 1:
            raise ProtocolError(f"{len(functions)} partitions and {len(warps)} numbers of warps, which all but the first have")
        runs = {
            f"{function.fn.__name__} {i}": lambda function=function, args=args: function(*args)
            for i, (function, args) in enumerate(functions)
        }
        return self.machine.fork(runs)

    # hopper

    def _fence(self) -> None:
        partition = self.machine.current
        for place in self.machine.places:
            if place.unfenced is partition:
                place.unfenced = None

    def _multiply(
        self, a: Any, b: Shared, acc: Any, *, use_acc: bool = True, precision: str | None = None, is_async: bool = False
    ) -> Any:
        partition = self.switch()
        (rows, inner), (inner_b, columns) = a.shape, b.shape
        if inner != inner_b or tuple(acc.shape) != (rows, columns) or a.dtype != b.dtype or rows % 64 or inner % 16:
            raise ProtocolError(
                f"a product of {(rows, inner)} {a.dtype} and {(inner_b, columns)} {b.dtype} to {tuple(acc.shape)}"
            )
        places = [place for operand in (a, b) if isinstance(operand, Shared) for place in operand.places]
        for place in places:
            place.check_read(partition.clock, f"a product of {partition.name}", is_async=True)
        total = _Sum((rows, columns))

        def multiply() -> None:
            left = a.memory if isinstance(a, Shared) else a
            total.value = left.float() @ b.memory.float()
            if use_acc:
                total.value = total.value + (acc.value if isinstance(acc, _Sum) else acc)

        before = partition.products[-1] if partition.products else None
        total.action = Action(f"a product of {partition.name}", multiply, places, after=before)
        partition.issue(total.action, partition.products)
        return total if is_async else self._wait_products(0, [total])

    def _wait_products(self, num_outstanding: int = 0, deps: Sequence[Any] = ()) -> Any:
        partition = self.machine.current
        partition.wait_for(partition.products, num_outstanding, "its products")
        values = []
        for dep in deps:
            if isinstance(dep, _Sum) and dep.action in partition.products:
                raise ProtocolError(f"{partition.name} takes the result of a product that it has not waited for")
            values.append(_registers(dep.value) if isinstance(dep, _Sum) else dep)
        return values[0] if len(values) == 1 else tuple(values)

    # mbarrier

    def _init(self, barrier: Barrier, count: int) -> None:
        if barrier.arrivals:
            raise ProtocolError(f"{barrier.name} is initialised twice")
        barrier.arrivals = barrier.missing = count

    def _expect(self, barrier: Barrier, n_bytes: int, pred: bool = True) -> None:
        partition = self.switch()
        if pred:
            barrier.n_bytes += n_bytes
            barrier.arrive(partition.clock, 1)

    def _arrive(self, barrier: Barrier, *, count: int = 1, pred: bool = True) -> None:
        partition = self.switch()
        if pred:
            barrier.arrive(partition.clock, count)

    def _wait(self, barrier: Barrier, phase: int, pred: bool = True, deps: Sequence[Any] = ()) -> None:
        partition = self.machine.current
        if pred:
            partition.pause(lambda: barrier.is_open(partition.name, int(phase)), f"phase {int(phase)} of {barrier.name}")
            barrier.seen[partition.name] = barrier.n_ended
            join(partition.clock, barrier.ended)

    # tma

    def _copy_in(self, source: Descriptor, starts: Sequence[int], barrier: Barrier, result: Shared, pred: bool = True) -> None:
        partition = self.switch()
        if not pred:
            return
        _check_tile(result.memory, source.block_shape, source.dtype, "a copy")
        barrier.check()
        self.machine.n_copies += 1
        copy = f"copy {self.machine.n_copies} of {partition.name}"
        for place in result.places:
            place.check_write(partition.clock, copy)
            place.written, place.reads = (copy, 1), {}
        result.memory.fill_(float("nan"))
        clock = {**partition.clock, copy: 1}

        def land() -> None:
            outer, inner = source.cut(starts)
            result.memory.zero_()
            result.memory[inner] = source.tensor[outer]
            join(barrier.clock, clock)
            barrier.n_bytes -= source.block_type.nbytes
            barrier.end_if_complete()

        self.machine.actions.append(Action(copy, land))

    def _copy_out(self, target: Descriptor, starts: Sequence[int], source: Shared) -> None:
        partition = self.switch()
        _check_tile(source.memory, target.block_shape, target.dtype, "a copy")
        for place in source.places:
            place.check_read(partition.clock, f"a copy of {partition.name}", is_async=True)

        def land() -> None:
            outer, inner = target.cut(starts)
            target.tensor[outer] = source.memory[inner]

        partition.issue(Action(f"a copy of {partition.name}", land, list(source.places)), partition.stores)

    def _wait_stores(self, pendings: int) -> None:
        partition = self.machine.current
        partition.wait_for(partition.stores, pendings, "its stores")


@dataclass
class _Barriers:
    barriers: list[Barrier]

    def index(self, i: int) -> Barrier:
        if not 0 <= i < len(self.barriers):
            raise ProtocolError(f"index {int(i)} of {len(self.barriers)} barriers")
        return self.barriers[i]


def _both(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    like = a if isinstance(a, Tensor) else b
    return torch.as_tensor(a, dtype=like.dtype), torch.as_tensor(b, dtype=like.dtype)


def _check_tile(memory: Tensor, shape: list[int], dtype: torch.dtype, what: str) -> None:
    if list(memory.shape) != shape or memory.dtype != dtype:
        raise ProtocolError(f"{what} of {shape} {dtype} for shared memory of {list(memory.shape)} {memory.dtype}")
