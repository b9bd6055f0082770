"""Issues and pull requests of GitHub: from events of GHArchive to threads, and from threads to text with markers."""
