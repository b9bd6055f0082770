"""SQL over everything that was built: a projection of names and manifests into DuckDB, curation, and traces back to sources."""
