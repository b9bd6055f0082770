"""The sequence mixers of a block, one file each."""
