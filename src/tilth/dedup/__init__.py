"""Finds duplicates, exact and near; marks them and never deletes: Arrow in, duplicates/1 out."""
