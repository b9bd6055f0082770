"""RedPajama-V1's seven slices from dumps on disk, by its published rules with their defects repaired (docs/redpajama.md).

dumps/commoncrawl     WARC or WET files              dumps/arxiv           arXiv's source archives, or LaTeX
dumps/c4              C4's JSON lines                dumps/wikipedia       pages-articles.xml.bz2 of each language
dumps/github          clones, bare or not            dumps/stackexchange   .7z files, or folders with a Posts.xml
dumps/books           text files; of near duplicates the first by path stays, so let PG-19's folder sort first

tilth build redpajama_v1 dumps=path/to/dumps
tilth pick slices "$(python recipes/redpajama_v1.py where)" --mix "$(python recipes/redpajama_v1.py mix)" --from redpajama_v1

With some of the slices: `slices=c4,books`, given to the recipe and to both calls of `python`.
"""

import sys
from pathlib import Path

from tilth import Bpe, Corpus, MinHashParameters, QualityModel, RepeatedLines, Warc
from tilth.corpus import ArxivSource, Books, GitRepositories, JsonLines, MediaWikiDump, StackExchange
from tilth.errors import RecipeError, did_you_mean
from tilth.pipeline.recipe import Perplexity

# Billions of tokens by EleutherAI's pythia-6.9b-deduped, RedPajama-Data (branch rp_v1), data_prep/README.md, Token Counts.
TOKENS = {"commoncrawl": 878, "c4": 175, "github": 59, "books": 26, "arxiv": 28, "wikipedia": 24, "stackexchange": 20}
ALL = ",".join(TOKENS)

LANGUAGES = (
    "'bg', 'ca', 'cs', 'da', 'de', 'en', 'es', 'fr', 'hr', 'hu', 'it', 'nl', 'pl', 'pt', 'ro', 'ru', 'sl', 'sr', 'sv', 'uk'"
)
# data_prep/github/github_run_filter.py: the end of a path, in this case; then BigQuery's licences mit%, bsd%, apache%
EXTENSIONS = (
    "asm|bat|cmd|c|h|cs|cpp|hpp|c[+][+]|h[+][+]|cc|hh|C|H|cmake|css|dockerfile|f90|f|f03|f08|f77|f95|for|fpp|go|hs|html|java|js|jl|"
    "lua|md|markdown|php|php3|php4|php5|phps|phpt|pl|pm|pod|perl|ps1|psd1|psm1|py|rb|rs|sql|scala|sh|bash|command|zsh|ts|tsx|tex|vb|"
    "xml|rst|m|smali"
)
LICENCE = r"(MIT|BSD|Apache)(-[\w.-]+)?"

# What a document of a slice must fulfil, in SQL. The arXiv slice has no filter, and C4 only takes exact duplicates out.
RULES = {
    "commoncrawl": (
        "n_chars >= 300",
        "(lid_language = 'en' and lid_score >= 0.5)",
        "perplexity_bucket in ('head', 'middle')",
        "wikiref_score >= 0.25",
    ),
    "github": (
        f"regexp_matches(path, '[.]({EXTENSIONS})$|(Dockerfile|Makefile)$')",
        f"regexp_full_match(licence, '[( ]*{LICENCE}[) ]*((AND|OR) [( ]*{LICENCE}[) ]*)*')",
        "max_line_length <= 1000",
        "n_chars <= 100 * n_lines",  # the published mean counts line ends
        "alphanumeric_fraction >= 0.25",
        "alphabetic_fraction * n_chars >= 1.5 * n_tokens",
    ),
    "books": ("is_keeper",),
    "wikipedia": (f"coalesce(language, lid_language) in ({LANGUAGES})",),
}
# The 28 sites with the most posts, of those that were read; give them as `sites=a.com,b.com`.
LARGEST_SITES = """select string_agg(site, ',') from (
    select meta['site'] as site from redpajama_v1 where source = 'stackexchange'
    group by all order by sum(1 + meta['n_answers']::int) desc, site limit 28)"""


def corpus(
    dumps: str = "dumps",
    slices: str = ALL,
    cited: str = "",
    n_references: int = 300_000,
    n_pieces: int = 65_536,
    vocab_size: int = 32_768,
    near_duplicates: bool = True,
) -> Corpus:
    """`cited` is a path to WARC files of pages that Wikipedia cites; without it, Wikipedia's articles stand in for them."""
    chosen = _chosen(slices)
    folder = Path(dumps).expanduser()
    for name in chosen:
        if not (folder / name).is_dir():
            others = ",".join(other for other in chosen if other != name) or "..."
            raise RecipeError(f"there is no folder for the slice `{name}`", str(folder / name), f"Make it, or `slices={others}`.")
    if "commoncrawl" in chosen and "wikipedia" not in chosen:
        raise RecipeError("the slice `commoncrawl` is judged by a model of Wikipedia", f"slices={slices}", "Add `wikipedia`.")
    at = {name: str(folder / name) for name in TOKENS}
    sources = {
        "commoncrawl": Warc("commoncrawl", at["commoncrawl"]),
        "c4": JsonLines("c4", at["c4"]),
        "github": GitRepositories("github", at["github"], strip_licence_headers=True),
        "books": Books("books", at["books"]),
        "arxiv": ArxivSource("arxiv", at["arxiv"]),
        "wikipedia": MediaWikiDump("wikipedia", at["wikipedia"]),
        "stackexchange": StackExchange("stackexchange", at["stackexchange"]),
    }
    web = "commoncrawl" in chosen
    return Corpus(
        sources=[*(sources[name] for name in chosen), *([Warc("cited", cited)] if web and cited else [])],
        signals=("language", "code_shape"),
        models=_models("cited" if cited else "wikipedia", n_references, n_pieces) if web else (),
        edits=[RepeatedLines(sources=("commoncrawl",))] if web else (),
        near_duplicates=MinHashParameters() if near_duplicates else None,
        tokenizer=Bpe(vocab_size),
    )


def _models(reference: str, n_references: int, n_pieces: int) -> list[QualityModel | Perplexity]:
    return [
        QualityModel(reference, "commoncrawl", name="wikiref", max_documents=n_references),
        Perplexity("wikipedia", n_pieces=n_pieces, cutoffs_from=("commoncrawl",)),
    ]


def where(slices: str = ALL, sites: str = "") -> str:
    """The predicate for `tilth pick`: a clause for each rule of these slices; `sites` are those of StackExchange to keep."""
    chosen = _chosen(slices)
    rules = dict(RULES)
    if sites:
        rules["stackexchange"] = (f"meta['site'] in ({', '.join(repr(site.strip()) for site in sites.split(','))})",)
    named = ", ".join(map(repr, chosen))
    clauses = [f"source <> '{name}' or {rule}" for name in chosen for rule in rules.get(name, ())]
    return "\nand ".join([f"source in ({named})", "is_exact_keeper", *(f"({clause})" for clause in clauses)])


def mix(slices: str = ALL) -> str:
    """The published sizes of these slices as weights for `--mix`."""
    return ",".join(f"{name}={TOKENS[name]}" for name in _chosen(slices))


def _chosen(slices: str) -> list[str]:
    names = [name.strip() for name in slices.split(",")]
    for name in names:
        if name not in TOKENS:
            raise RecipeError(f"RedPajama-V1 has no slice `{name}`", f"slices={slices}", did_you_mean(name, TOKENS))
    return names


if __name__ == "__main__":
    words = dict(word.split("=", 1) for word in sys.argv[2:])
    sys.stdout.write({"where": where, "mix": mix, "sites": lambda: LARGEST_SITES}[sys.argv[1]](**words) + "\n")
