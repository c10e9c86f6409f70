"""Rules that look at a plan before it runs; one rule is one file."""
