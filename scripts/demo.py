"""`make demo`: runs the main job verb by verb, as a user would type it, and ends with the seconds each took."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
QUERY = """
select source, count(*) as documents, avg(rps_doc_mean_word_length)::decimal(4,2) as word_length,
       avg(rps_doc_frac_unique_words)::decimal(4,3) as unique_words, avg(quality_score)::decimal(4,3) as quality,
       count(distinct origin) as origins, mode(licence) as commonest_licence
from demo where is_keeper group by all order by documents desc
"""
CLEAN = (
    "is_keeper and n_tokens >= 32 and rps_doc_frac_chars_dupe_10grams < 0.6 and alphanumeric_fraction > 0.5 "
    "and (lid_language = 'en' or source in ('git', 'packages'))"
)
PROSE = "is_keeper and source = 'readmes' and quality_score > 0.5"

STAGES: list[tuple[str, list[str]]] = [
    ("build the corpus", ["build", "demo"]),
    ("query it", ["sql", QUERY]),
    ("curate: clean", ["pick", "clean", CLEAN, "--from", "demo", "--validation", "0.1"]),
    ("curate: prose", ["pick", "prose", PROSE, "--from", "demo", "--validation", "0.1"]),
    ("train the base", ["train", "demo:base"]),
    ("fine-tune it", ["train", "demo:tuned"]),
    ("deploy one bit per weight", ["deploy", "tuned", "--base", "base", "--distill-steps", "30", "--prompt", "This package"]),
    ("trace a token", ["trace", "base", "--step", "10", "--sequence", "3", "--position", "100"]),
    ("report", ["report"]),
]


def quoted(word: str) -> str:
    """As a person would quote it for a shell: predicates are full of single quotes."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\') else shlex.quote(word)


def run(words: list[str]) -> tuple[float, float]:
    """Run one verb in its own process; returns seconds and the peak memory of that process in MB."""
    shown = " ".join(quoted(" ".join(word.split())) for word in words)
    print(f"\n$ tilth {shown}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "tilth", *words], cwd=PROJECT)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.wait()
        raise
    code = os.waitstatus_to_exitcode(status)
    if code:
        sys.exit(code if code > 0 else 1)
    return time.monotonic() - started, usage.ru_maxrss / 1024


def main() -> None:
    """All stages in order, then the table."""
    measured = [(name, *run(words)) for name, words in STAGES]
    print(f"\n  {'stage':<28}{'seconds':>9}{'peak MB':>9}")
    for name, seconds, megabytes in measured:
        print(f"  {name:<28}{seconds:>9.1f}{megabytes:>9.0f}")
    print(f"  {'in all':<28}{sum(row[1] for row in measured):>9.1f}{max(row[2] for row in measured):>9.0f}")
    print(f"\nLook at {PROJECT / '.tilth' / 'report.html'}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
