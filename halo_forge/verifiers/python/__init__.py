"""Python: what runs outside of the sandbox.  `driver` is what runs inside."""
