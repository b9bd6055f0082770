"""Compiled loops; modules to be imported when they are needed, since Numba takes long to load."""
