"""The runner behind `verifier.kind: command`, a checker of the user's own."""
