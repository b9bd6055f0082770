"""Languages of source files: a port of linguist's rules, with a small classifier for what the rules leave open."""

from tilth.corpus.languages.detect import Detected, detect
from tilth.corpus.languages.generated import is_generated
from tilth.corpus.languages.paths import is_documentation, is_vendored

__all__ = ["Detected", "detect", "is_documentation", "is_generated", "is_vendored"]
