"""Where a document comes from and under which licence: SWHIDs, git objects, licence claims, installed distributions."""
