"""What acts for one run: from a checked configuration to an open run, and the effects that the loop works with."""
