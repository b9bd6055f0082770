"""Documents that are equal: by content, by normal text, by URL."""
