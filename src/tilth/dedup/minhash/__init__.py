"""Near-duplicates by MinHash, verified: signatures, candidates, comparison, clusters."""
