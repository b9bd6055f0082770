"""Text to tokens: a byte-level BPE (`bpe`), token shards on disk (`shards`) and the order in which a run reads them (`order`)."""
