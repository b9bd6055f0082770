"""Continuous batching over a decoder: requests in, tokens out, with forked samples, tenants and a prefix cache."""
