"""Languages of source files: a port of linguist's rules, with a small classifier for what the rules leave open."""

from tilth.corpus.languages.detect import Detected, detect

__all__ = ["Detected", "detect"]
