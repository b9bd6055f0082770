"""What the published filter rules measure, over Arrow buffers: English words as spaCy cuts them, lines, repeated n-grams."""
