"""What the published filter rules measure, over Arrow buffers: English words as spaCy cuts them, lines, repeated n-grams.

Each kernel file stands for itself, since a compiled function is only compiled again when its own file changes.
"""
