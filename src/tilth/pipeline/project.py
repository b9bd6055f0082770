"""A project is a folder with `recipes/`; everything that Tilth makes lies in its `.tilth/`."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import tilth
from tilth.artifacts import Store
from tilth.artifacts.atomic import disk_errors
from tilth.errors import NotFoundError, RecipeError


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


def create_project(folder: Path) -> Path:
    """Make a project with a copy of the demo recipe; returns the recipe's path. Raises RecipeError if one is there."""
    if (folder / "recipes").exists():
        raise RecipeError("there is a project already", str(folder), "Choose another folder, or use this one as it is.")
    recipe = folder / "recipes" / "demo.py"
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            recipe.parent.mkdir()
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise RecipeError(f"no folder can be made here: {error.strerror}", str(folder), "Choose another folder.") from error
        try:
            shutil.copyfile(_shipped_recipes() / "demo.py", recipe)
            if not (folder / ".gitignore").exists():
                (folder / ".gitignore").write_text(".tilth/\ninputs/\n")
        except OSError:
            shutil.rmtree(recipe.parent)  # or the next attempt would find half a project
            raise
    return recipe


def _shipped_recipes() -> Path:
    """Recipes lie inside an installed wheel, and beside `src` in a checkout."""
    package = Path(tilth.__file__).parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parents[1] / "recipes"
