"""Checkpoints of other programs: each format is one file here, and registry.py holds their list."""
