"""RedPajama-V2's signals over Arrow buffers: compiled loops on UTF-8 bytes that make no Python string.

Each kernel file stands for itself, since a compiled function is only compiled again when its own file changes.
"""
