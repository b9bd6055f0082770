"""Opt-out: what people ask to be forgotten, what answers to it, and reading without it."""
