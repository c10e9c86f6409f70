"""One module for each value of `verifier.kind`; every module here is found by itself, so nothing else lives here."""
