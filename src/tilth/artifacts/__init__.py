"""Content-addressed outputs: keys, manifests, atomic publish, locks, names. The only room that knows paths."""

from tilth.artifacts.naming import Named, Part
from tilth.artifacts.spec import Spec, difference
from tilth.artifacts.store import Artifact, Store

__all__ = ["Artifact", "Named", "Part", "Spec", "Store", "difference"]
