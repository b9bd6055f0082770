"""Secrets, e-mail addresses and IP addresses in source code: a compiled search for candidates, which rules then judge."""
