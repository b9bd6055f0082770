"""Near-duplicates by SimHash, as RedPajama-V1 made them for books."""
