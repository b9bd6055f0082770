"""Finds duplicates, exact and near, and benchmarks in documents; marks them and never deletes: Arrow in, Arrow out."""
