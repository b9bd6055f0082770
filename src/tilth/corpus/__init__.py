"""Sources of documents: what is read becomes a document with its provenance or a reject with its reason.

`sources/` holds one source a file, `extract/` turns bytes into text, `reading.read_shard` gives Arrow batches.
Nothing heavy is imported here: import the module that you need.
"""
