"""Ways to the master key of a keystore."""
