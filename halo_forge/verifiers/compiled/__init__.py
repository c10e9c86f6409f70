"""What languages share that compile a program before they run it."""
