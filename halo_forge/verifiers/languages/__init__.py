"""One module for each value of `verifier.kind`.  Every module here is discovered, so nothing else lives here."""
