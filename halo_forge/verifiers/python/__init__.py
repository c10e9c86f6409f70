"""Python: what runs outside of the jail; `driver` is what runs inside of it."""
