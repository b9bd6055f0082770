"""A project is a folder with `recipes/`; everything that Tilth makes lies in its `.tilth/`."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import tilth
from tilth.artifacts import Store
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


def create_project(folder: Path) -> Path:
    """Make a project with a copy of the demo recipe; returns the recipe's path. Raises RecipeError if one is there."""
    if (folder / "recipes").exists():
        raise RecipeError("there is a project already", str(folder), "Choose another folder, or use this one as it is.")
    (folder / "recipes").mkdir(parents=True)
    copied = shutil.copy(_shipped_recipes() / "demo.py", folder / "recipes" / "demo.py")
    (folder / ".gitignore").write_text(".tilth/\ninputs/\n")
    return Path(copied)


def _shipped_recipes() -> Path:
    """Recipes lie inside an installed wheel, and beside `src` in a checkout."""
    package = Path(tilth.__file__).parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parents[1] / "recipes"
