"""A code corpus from a folder of clones, as The Stack v2 makes one, with its faults mended (docs/code.md).

repositories/owner+name    clones, bare or not, at any depth, or links to them
stars.csv                  repository,stars,forks: an origin, `owner/name` or a folder in each row; empty where not known
benchmarks/                HumanEval.jsonl.gz, mbpp.jsonl and GSM8K's test.jsonl, at any depth

tilth build code repositories=path/to/repositories
tilth build code repositories=path/to/repositories facts=stars.csv benchmarks=path/to/benchmarks --workers 2
tilth pick permissive "$(python recipes/code.py where)" --from code
tilth notice permissive -o NOTICE

Words for `where`: `decontaminated=true` where benchmarks were looked for, and `licences=` one of
  permissive       (the default) of the copies of a file the most permissive one stays, and its repository puts it under no more
  everywhere       and no other repository here holds the same file under anything more
  or-none          as The Stack v2: also files of repositories that state no licence, which is to say all rights reserved
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from tilth import Bpe, Corpus
from tilth.corpus import GitRepositories
from tilth.errors import RecipeError, did_you_mean
from tilth.pipeline.code_minhash import CodeMinHash
from tilth.pipeline.linguist import Linguist
from tilth.pipeline.recipe import CodeForm, Decontaminate, Notebooks, Redact

SIGNALS = ("code_shape", "code_head", "code_html", "code_comments", "secrets")
# Permissive copies first, those without a licence last; then the repository with the most stars; the rest makes it one order.
KEEP = "licence_strictness, meta['stars']::bigint desc, date, path, origin, revision"
LICENCES = {
    "permissive": "licence_strictness <= 1",
    "everywhere": "strictest_anywhere <= 1",
    "or-none": "(licence_strictness <= 1 or licence is null)",
}
BENCHMARKS = {"humaneval": "HumanEval.jsonl*", "mbpp": "mbpp.jsonl*", "gsm8k": "gsm8k*/**/test.jsonl*"}


def corpus(
    repositories: str = "repositories",
    facts: str = "",
    benchmarks: str = "",
    threshold: float = 0.7,
    vocab_size: int = 49_152,
    notebooks: str = "script",
    order: str = "random",
    scancode: str = "",
    clamd: str = "",
) -> Corpus:
    """`scancode` is a SQLite file for ScanCode's answers, `clamd` the address of a ClamAV daemon: neither is asked without.

    Near-duplicates are MinHash's in 32 bands of 6 rows: at similarity .7 a pair is proposed with probability .98, and with
    The Stack v2's 25 bands of 10 (`CodeMinHash(bands=(25, 10))`) with .51; each is verified either way.
    """
    source = GitRepositories("code", repositories, facts=facts or None, scancode=scancode or None)
    return Corpus(
        sources=[source],
        edits=[Notebooks(notebooks), Redact()],
        signals=[*SIGNALS, Linguist(), *_parsers(), *_scanner(clamd)],
        near_duplicates=CodeMinHash(threshold=threshold),
        keep=KEEP,
        decontaminate=Decontaminate(_found_below(benchmarks), n_code=20) if benchmarks else None,
        tokenizer=Bpe(vocab_size, max_bytes=32_000_000),
        training_form=CodeForm(order=order),
    )


def where(licences: str = "permissive", decontaminated: str = "false") -> str:
    """What The Stack v2 keeps, as a predicate for `tilth pick`."""
    for word, known in ((licences, LICENCES), (decontaminated, ("true", "false"))):
        if word not in known:
            raise RecipeError(f"`{word}` is none of {', '.join(known)}", "where", did_you_mean(word, known))
    clauses = ["@stack-v2", LICENCES[licences], "is_keeper"]
    return "\nand ".join([*clauses, *(["n_contaminated = 0"] if decontaminated == "true" else [])])


def _parsers() -> tuple[str, ...]:
    return ("parse_errors",) if find_spec("tree_sitter") else ()


def _scanner(clamd: str) -> tuple:
    if not clamd:
        return ()
    from tilth.pipeline.malware import Malware

    return (Malware(clamd),)


def _found_below(folder: str) -> dict[str, str]:
    place = Path(folder).expanduser()
    found = {name: sorted(place.rglob(pattern)) for name, pattern in BENCHMARKS.items()}
    for name, pattern in BENCHMARKS.items():
        if len(found[name]) != 1:
            what = f"{len(found[name])} files of the benchmark `{name}` are here, not one"
            raise RecipeError(what, f"{folder}/**/{pattern}", "Put the file there, or change BENCHMARKS.")
    return {name: str(files[0]) for name, files in found.items()}


if __name__ == "__main__":
    words = dict(word.split("=", 1) for word in sys.argv[2:])
    sys.stdout.write({"where": where}[sys.argv[1]](**words) + "\n")
