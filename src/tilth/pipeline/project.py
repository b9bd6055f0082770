"""A project is a folder with `recipes/`; everything that Tilth makes lies in its `.tilth/`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tilth
from tilth.artifacts import Store
from tilth.artifacts.atomic import disk_errors
from tilth.errors import NotFoundError, RecipeError, did_you_mean


@dataclass(frozen=True)
class Project:
    """Where recipes, inputs and the store lie."""

    folder: Path

    @staticmethod
    def find(start: Path | None = None) -> Project:
        """The project of `start` (the current folder): the nearest folder upwards with `.tilth` or `recipes`.

        The environment variable TILTH_PROJECT names one outright. Raises NotFoundError.
        """
        named = os.environ.get("TILTH_PROJECT")
        start = Path(named) if named else (start or Path.cwd())
        for folder in [start.absolute(), *start.absolute().parents]:
            if (folder / ".tilth").is_dir() or (folder / "recipes").is_dir():
                return Project(folder)
        raise NotFoundError("this is not a Tilth project", str(start), "Make one with `tilth new DIR`, or go into its folder.")

    @property
    def store(self) -> Store:
        """The artifacts of this project."""
        return Store(self.folder / ".tilth")

    @property
    def inputs(self) -> Path:
        """What sources fetched from elsewhere, from then on fixed inputs."""
        return self.folder / "inputs"

    def only_corpus(self) -> str:
        """The name of the corpus where there is one alone. Raises NotFoundError."""
        names = [named.name for named in self.store.named("corpus")]
        if not names:
            raise NotFoundError("there is no corpus yet", str(self.folder), "Build one: `tilth build demo`.")
        if len(names) > 1:
            fix = f"Name it: `--from {names[0]}` (there are {', '.join(names)})."
            raise NotFoundError("which corpus?", str(self.folder), fix)
        return names[0]


def create_project(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Make a project with copies of the shipped recipes `names`, of the demo without any; returns their paths.

    With names they are added to a project that is there. Raises RecipeError, and changes nothing, for a name that is not
    shipped, a recipe or (without names) a project that is there already, and a folder that cannot be made.
    """
    own = folder / "recipes"
    if own.exists() and not names:
        fix = "Choose another folder, or add a recipe to this one: `tilth new DIR --recipe NAME`."
        raise RecipeError("there is a project already", str(folder), fix)
    recipes = {own / f"{name}.py": _shipped_recipe(name) for name in names or ("demo",)}
    for path in recipes:
        if path.exists():
            raise RecipeError("there is such a recipe already", str(path), "Move it away, or use it as it is.")
    is_new = not own.exists()
    with disk_errors(folder):
        try:
            own.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise RecipeError(f"no folder can be made here: {error.strerror}", str(folder), "Choose another folder.") from error
        try:
            for path, shipped in recipes.items():
                shutil.copyfile(shipped, path)
            if not (folder / ".gitignore").exists():
                (folder / ".gitignore").write_text(".tilth/\ninputs/\n")
        except OSError:
            if is_new:
                shutil.rmtree(own)  # or the next attempt would find half a project
            raise
    return list(recipes)


def _shipped_recipe(name: str) -> Path:
    folder = _shipped_recipes()
    if not name.isidentifier() or not (folder / f"{name}.py").is_file():
        known = [path.stem for path in folder.glob("*.py")]
        raise RecipeError(f"no recipe `{name}` is shipped", str(folder), did_you_mean(name, known))
    return folder / f"{name}.py"


def _shipped_recipes() -> Path:
    """Recipes lie inside an installed wheel, and beside `src` in a checkout."""
    package = Path(tilth.__file__).parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parents[1] / "recipes"
