"""From archived bytes to text: HTTP bodies, character sets, the main text of HTML."""
