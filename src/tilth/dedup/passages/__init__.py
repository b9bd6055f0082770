"""Repeated parts of documents: lines, paragraphs, sentences, spans of tokens; as edits."""
