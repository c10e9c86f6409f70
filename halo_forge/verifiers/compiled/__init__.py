"""What compiled languages share: building objects, linking, harnesses, and what only some of them need."""
