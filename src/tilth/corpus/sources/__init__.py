"""One source a file; `registry.sources()` walks this package."""
