"""How victims are ordered, a policy a file."""
