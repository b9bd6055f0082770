"""The training form of code: repositories as one text each, with names, an order of files and pieces to fill in.

    <repo_name>NAME<file_sep>PATH\\nCONTENT<file_sep>PATH\\nCONTENT ... <|endoftext|>

or without any name: <file_sep>CONTENT<file_sep>CONTENT ... . A file to be filled in is written with the middle last:

    PSM  <fim_prefix>PREFIX<fim_suffix>SUFFIX<fim_middle>MIDDLE
    SPM  <fim_prefix><fim_suffix>SUFFIX<fim_middle>PREFIX MIDDLE    (one after the other)

Sources: StarCoder2 (arXiv:2402.19173, section 4) for the context, Bavarian et al. (arXiv:2207.14255) for PSM and SPM.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from tilth.errors import RecipeError

REPO_NAME, FILE_SEP = "<repo_name>", "<file_sep>"
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD = "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"
SPECIAL_TOKENS = (REPO_NAME, FILE_SEP, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD)
ORDERS = ("random", "path", "dependency")
VERSION = 1  # raise it when the same form begins to give other tokens


@dataclass(frozen=True)
class CodeForm:
    """How the files of git repositories become training documents; documents of other kinds stay as they are.

    `names` is the share of repositories with their name and paths; `order` that of the files (dependency: what a file
    imports comes before it). Of `fim_repositories`, each file is filled in with probability `fim_files`, and of these
    `spm` are written suffix first. More text than `max_bytes` goes on in a further document that begins in the same way.
    All chance follows from `seed` and the ids of repositories and documents. Raises RecipeError for what cannot be.
    """

    order: Literal["random", "path", "dependency"] = "random"
    names: float = 0.5
    fim_repositories: float = 0.5
    fim_files: float = 0.5
    spm: float = 0.5
    max_bytes: int = 64 << 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise RecipeError(f"CodeForm has no order `{self.order}`", fix=f"One of {', '.join(ORDERS)}.")
        for name in ("names", "fim_repositories", "fim_files", "spm"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"`{name}` of CodeForm is a share", str(getattr(self, name)), "Give a number from 0 to 1.")
        if self.max_bytes < 1:
            raise RecipeError("`max_bytes` of CodeForm must be at least 1", fix="The default is 64 MiB.")

    def chance(self, what: str, *ids: str | bytes | int) -> float:
        """A number from 0 to below 1 that depends on the seed, on `what` it decides and on `ids`, and on nothing else."""
        return chance(self.seed, what, *ids)


def chance(seed: int, what: str, *ids: str | bytes | int) -> float:
    """A number from 0 to below 1 that depends on the arguments alone, any as likely as any other."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (str(seed), what, *ids):
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return (int.from_bytes(digest.digest(), "little") >> 11) / (1 << 53)
