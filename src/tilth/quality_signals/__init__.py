"""Scores for documents: Arrow in, Arrow out, one family of signals a file; nothing is ever dropped here."""
