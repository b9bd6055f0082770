"""Models that signals use: trained here from texts, kept as bytes with a manifest of data, seed and parameters."""
