"""A prefix cache for hybrid models: keys and values by token, recurrent states by checkpoint, in one tree under one budget."""
