"""Traces of requests through the prefix cache without a model: which policy would have saved what, and at what capacity."""
