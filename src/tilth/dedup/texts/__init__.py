"""Texts as compiled code reads them: bytes, normal forms, tokens, hashes."""
