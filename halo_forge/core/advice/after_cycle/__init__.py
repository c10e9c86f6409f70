"""Rules that look at what was measured; one rule is one file."""
