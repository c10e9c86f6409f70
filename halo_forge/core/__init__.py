"""What decides: pure functions and frozen values, without files, clocks, processes or the model."""
