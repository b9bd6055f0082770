"""What decides what somebody else's object does, as JSON: its class, its settings, and the code of what is no library's.

Equal objects give equal descriptions, in any process of the same version of Python. A description belongs into the key of
what the object makes; what the versions of libraries decide is not in it (`libraries_of`).
"""

from __future__ import annotations

import dis
import enum
import hashlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import packages_distributions
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from tilth.artifacts.spec import canonical_json
from tilth.errors import RecipeError

NOT_CONFIGURATION = frozenset({"stats", "exclusion_writer"})  # what a step counts, and where a filter would write
MAX_DEPTH = 16
MAX_ENTRIES = 100  # of a list or set that is written out; a longer one is its digest
MOST_ORDERED = 16  # strings whose order counts


def describe(value: Any) -> dict[str, Any]:
    """The class of an object and its settings. Raises RecipeError for what cannot be told from another by its content."""
    found = _Description().of(value, type(value).__name__)
    assert isinstance(found, dict)
    return found


def libraries_of(step: Any) -> tuple[str, ...]:
    """The distributions whose versions decide what a step does: those of its class, and those that datatrove says it needs."""
    found: set[str] = set()
    for kind in type(step).__mro__:
        needed = [kind.__module__.partition(".")[0]]
        needed += [one if isinstance(one, str) else one[0] for one in vars(kind).get("_requires_dependencies", ())]
        found |= {distribution for module in needed for distribution in _distributions().get(module, ())}
    if "spacy" in _distributions() and any(name in dir(step) for name in ("language", "tokenizer_language")):
        found.add("spacy")  # which datatrove cuts words and sentences with
    return tuple(sorted(found))


class _Description:
    """One walk through an object; `seen` are functions and classes that were told already."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def of(self, value: Any, where: str, depth: int = 0) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value.value if isinstance(value, enum.Enum) else value
        if depth > MAX_DEPTH:
            raise RecipeError("the settings are nested too deeply to be described", where, "give it plain values")
        if isinstance(value, Mapping):
            told = {str(key): self.of(entry, f"{where}.{key}", depth + 1) for key, entry in value.items()}
            return told if len(told) <= MAX_ENTRIES else _digest(told)
        if isinstance(value, set | frozenset):
            return _short(sorted((self.of(entry, where, depth + 1) for entry in value), key=canonical_json))
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
            entries = [self.of(entry, where, depth + 1) for entry in value]
            return _short(sorted(entries) if _is_of_a_set(entries) else entries)
        if isinstance(value, bytes | bytearray | memoryview):
            return {"sha256": hashlib.sha256(value).hexdigest()}
        if isinstance(value, PurePath | enum.Enum):
            return str(value)
        if isinstance(value, re.Pattern):
            return {"pattern": self.of(value.pattern, where, depth + 1), "flags": value.flags}
        if isinstance(value, type | FunctionType | MethodType | BuiltinFunctionType | partial | ModuleType):
            return self._callable(value, where, depth)
        return self._object(value, where, depth)

    def _callable(self, value: Any, where: str, depth: int) -> Any:
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, partial):
            return {"partial": self.of([value.func, value.args, value.keywords], where, depth + 1)}
        if isinstance(value, type):
            return self._class(value, where, depth)
        if isinstance(value, MethodType):
            return {"method": value.__name__, "of": self.of(value.__self__, where, depth + 1)}
        if isinstance(value, BuiltinFunctionType):
            return {"builtin": value.__name__, "of": self.of(value.__self__, where, depth + 1)}
        return self._function(value, where, depth)

    def _object(self, value: Any, where: str, depth: int) -> Any:
        kind = type(value)
        try:
            parts = value.__reduce_ex__(4)
        except TypeError as error:
            raise RecipeError(f"a {kind.__name__} cannot be described", where, "give the step plain values") from error
        if isinstance(value, Iterator) or isinstance(parts, str):
            raise RecipeError(f"a {kind.__name__} cannot be described", where, "give the step plain values")
        told = {"class": self._class(kind, where, depth)}
        is_plain = getattr(parts[0], "__name__", "") in ("__newobj__", "__newobj_ex__", "_reconstructor")
        state = parts[2] if len(parts) > 2 else None
        if not is_plain:  # made anew by a function from arguments, as C's objects are
            told["made"] = self.of([parts[0], *parts[1]], where, depth + 1)
        elif len(parts[1]) > 1:
            told["made"] = self.of(parts[1][1:], where, depth + 1)
        settings = state[1] if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict) else {}
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
            settings = {**settings, **state[0]}
        if isinstance(state, dict):
            settings = state
        elif state is not None and not settings:
            told["state"] = self.of(state, where, depth + 1)
        for name in sorted(settings):
            if name not in NOT_CONFIGURATION:
                told[name] = self.of(settings[name], f"{where}.{name}", depth + 1)
        more = [list(part) for part in parts[3:5] if part is not None]  # of subclasses of list and dict
        return {**told, "items": self.of(more, where, depth + 1)} if any(more) else told

    def _class(self, kind: type, where: str, depth: int) -> Any:
        """The name of a library's class; of one that the user wrote, its code too."""
        if _is_of_a_library(kind.__module__):
            return f"{kind.__module__}.{kind.__qualname__}"
        if id(kind) in self.seen:
            return kind.__qualname__
        self.seen.add(id(kind))
        own = {name: entry for name, entry in vars(kind).items() if name not in _MADE_BY_PYTHON}
        parts = {name: self._member(entry, f"{where}.{name}", depth) for name, entry in sorted(own.items())}
        bases = [self._class(base, where, depth + 1) for base in kind.__bases__ if base is not object]
        return {"name": kind.__qualname__, "bases": bases, "code": _sha256(parts)}

    def _member(self, entry: Any, where: str, depth: int) -> Any:
        if isinstance(entry, staticmethod | classmethod):
            return self.of(entry.__func__, where, depth + 1)
        if isinstance(entry, property):
            return [self.of(part, where, depth + 1) for part in (entry.fget, entry.fset, entry.fdel)]
        return self.of(entry, where, depth + 1) if not inspect.ismemberdescriptor(entry) else "slot"

    def _function(self, function: FunctionType, where: str, depth: int) -> Any:
        if _is_of_a_library(function.__module__):
            return f"{function.__module__}.{function.__qualname__}"
        if id(function) in self.seen:
            return function.__qualname__
        self.seen.add(id(function))
        closed = [self.of(cell.cell_contents, where, depth + 1) for cell in function.__closure__ or ()]
        defaults = self.of([*(function.__defaults__ or ()), function.__kwdefaults__], where, depth + 1)
        named = {
            name: self.of(function.__globals__[name], f"{where}: {name}", depth + 1)
            for name in sorted(_global_names(function.__code__))
            if name in function.__globals__
        }
        told = [self._code(function.__code__, where, depth), closed, defaults, named]
        return {"function": function.__qualname__, "code": _sha256(told)}

    def _code(self, code: CodeType, where: str, depth: int) -> Any:
        constants = [
            self._code(constant, where, depth) if isinstance(constant, CodeType) else self.of(constant, where, depth + 1)
            for constant in code.co_consts
        ]
        return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


_MADE_BY_PYTHON = frozenset({
    "__dict__", "__weakref__", "__doc__", "__module__", "__abstractmethods__", "_abc_impl", "__annotations__", "__qualname__",
    "__firstlineno__", "__static_attributes__", "__orig_bases__", "__parameters__",
})  # fmt: skip


def _is_of_a_library(module: str | None) -> bool:
    """True for what an installed distribution or Python itself holds: its version says which code it is."""
    top = (module or "").partition(".")[0]
    return top in sys.stdlib_module_names - {"__main__"} or top in sys.builtin_module_names or top in _distributions()


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Top-level modules -> the distributions that hold them."""
    return packages_distributions()


def _global_names(code: CodeType) -> set[str]:
    found = {str(one.argval) for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*(_global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _is_of_a_set(entries: Sequence[Any]) -> bool:
    """True for many different strings, as `tuple(PUNCTUATION)`: datatrove's order of them differs from process to process."""
    return len(entries) > MOST_ORDERED and all(isinstance(one, str) for one in entries) and len(set(entries)) == len(entries)


def _short(entries: list[Any]) -> Any:
    return entries if len(entries) <= MAX_ENTRIES else _digest(entries)


def _digest(entries: Any) -> dict[str, Any]:
    return {"n": len(entries), "sha256": _sha256(entries)}


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()
