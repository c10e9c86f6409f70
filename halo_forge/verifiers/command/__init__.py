"""A checker of the user's own."""
