"""Compiled loops of the rules; each file stands for itself, since a compiled function is compiled again when its file changes."""
