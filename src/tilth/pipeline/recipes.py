"""Finds a recipe, checks the words that override its parameters, and calls it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from tilth.artifacts.naming import check_name
from tilth.errors import NotFoundError, RecipeError, TilthError, did_you_mean
from tilth.pipeline.execute import RECIPE_MODULE
from tilth.pipeline.recipe import Corpus, Distill, Train

T = TypeVar("T", Corpus, Train, Distill)
_EXTRAS = {"datatrove": "interchange"}  # modules that recipes import -> the extra that brings them


@dataclass(frozen=True)
class Loaded:
    """A recipe that was called: the name of what it makes, the description, and the overrides that were given."""

    name: str
    description: Any
    path: Path
    overrides: dict[str, Any]


def load_recipe(target: str, overrides: Iterable[str], wanted: type[T], folder: Path) -> Loaded:
    """Call the recipe `target` (`demo`, `demo:base`, `path/to/demo.py:base`) with `name=value` overrides.

    Without `:function`, the function that is annotated to return `wanted`; a corpus is then named after the file.
    Raises RecipeError, with the nearest name, for whatever is not there.
    """
    file_part, _, function_name = target.partition(":")
    path = _find(file_part, folder)
    module = _import(path)
    makers = _makers(module, wanted)
    if not function_name:
        function_name = _only(makers, path, wanted)
    if function_name not in makers:
        raise RecipeError(
            f"`{path.name}` has no {wanted.__name__} recipe `{function_name}`", str(path), did_you_mean(function_name, makers)
        )
    maker = makers[function_name]
    name = path.stem if wanted is Corpus and len(makers) == 1 else function_name
    check_name(name)
    given = parse_overrides(maker, overrides, path)
    return Loaded(name, _call(maker, given, path, wanted), path, given)


def recipe_functions(path: Path) -> list[tuple[str, str, str]]:
    """(name, what it makes, its parameters with their defaults) of each recipe in a file. Raises RecipeError."""
    module = _import(path)
    return [
        (name, kind.__name__.lower(), ", ".join(f"{p.name}={p.default!r}" for p in inspect.signature(maker).parameters.values()))
        for kind in (Corpus, Train, Distill)
        for name, maker in _makers(module, kind).items()
    ]


def parse_overrides(maker: Callable[..., Any], words: Iterable[str], path: Path) -> dict[str, Any]:
    """Turn `steps=100` into typed arguments; the parameters of the recipe are the only words there are."""
    parameters = inspect.signature(maker).parameters
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise RecipeError(f"`{word}` is not `name=value`", str(path), "Write it without spaces: `steps=100`.")
        if name not in parameters:
            raise RecipeError(f"`{maker.__name__}` has no parameter `{name}`", str(path), did_you_mean(name, parameters))
        given[name] = _typed(name, text, parameters[name], path)
    return given


def _typed(name: str, text: str, parameter: inspect.Parameter, path: Path) -> Any:
    kind = getattr(parameter.annotation, "__name__", str(parameter.annotation))
    if text in ("None", "none", "null") and "None" in kind:
        return None
    try:
        if "bool" in kind:
            return {"true": True, "false": False}[text.lower()]
        if "int" in kind:
            return int(text.replace("_", ""))
        if "float" in kind:
            return float(text)
        return text if "str" in kind else ast.literal_eval(text)
    except (ValueError, KeyError, SyntaxError):
        raise RecipeError(f"`{name}={text}` is not of type {kind}", str(path), f"The default is {parameter.default!r}.") from None


def _find(file_part: str, folder: Path) -> Path:
    candidates = [Path(file_part), folder / file_part, folder / "recipes" / file_part, folder / "recipes" / f"{file_part}.py"]
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate.absolute()
    known = [path.stem for path in (folder / "recipes").glob("*.py")]
    raise NotFoundError(f"there is no recipe `{file_part}`", str(folder / "recipes"), did_you_mean(file_part, known))


def _import(path: Path) -> ModuleType:
    name = f"{RECIPE_MODULE}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Registered, so that what the recipe defines can be pickled for a worker.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except TilthError:
        raise
    except Exception as error:
        raise RecipeError(f"the recipe does not import: {error}", _last_line_in(path, error), _mending(error)) from error
    return module


def _mending(error: Exception) -> str:
    """What to do about an error in a recipe."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in _EXTRAS:
        return f"pip install 'tilth[{_EXTRAS[missing]}]'"
    return "Install it, or leave out what needs it." if isinstance(error, ImportError) else "Mend that line."


def _makers(module: ModuleType, wanted: type) -> dict[str, Callable[..., Any]]:
    functions = {
        name: value for name, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    return {name: value for name, value in functions.items() if _returns(value) == wanted.__name__}


def _returns(function: Callable[..., Any]) -> str:
    annotation = function.__annotations__.get("return")
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")


def _only(makers: dict[str, Callable[..., Any]], path: Path, wanted: type) -> str:
    if len(makers) == 1:
        return next(iter(makers))
    if not makers:
        raise RecipeError(
            f"no function here returns a {wanted.__name__}", str(path), f"Annotate one: `def name() -> {wanted.__name__}:`."
        )
    raise RecipeError(f"which one? {', '.join(sorted(makers))}", str(path), f"Name it: `{path.stem}:{next(iter(makers))}`.")


def _call(maker: Callable[..., Any], given: dict[str, Any], path: Path, wanted: type) -> Any:
    try:
        made = maker(**given)
    except TilthError:
        raise
    except Exception as error:
        raise RecipeError(f"`{maker.__name__}` failed: {error}", _last_line_in(path, error), _mending(error)) from error
    if not isinstance(made, wanted):
        raise RecipeError(
            f"`{maker.__name__}` returned {type(made).__name__}, not {wanted.__name__}",
            str(path),
            "Return what it is annotated with.",
        )
    return made


def _last_line_in(path: Path, error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)
