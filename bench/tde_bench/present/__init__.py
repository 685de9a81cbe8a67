"""The look of results, whichever command they come from."""
