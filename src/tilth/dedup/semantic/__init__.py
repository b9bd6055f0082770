"""Documents of like meaning, by embeddings."""
