"""Many fine-tunes over one base: what a tenant changes, and one pass for rows of several tenants."""
