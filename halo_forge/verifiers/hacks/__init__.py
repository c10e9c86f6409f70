"""Signs that an answer looks for reward where none is earned."""
