"""The cryptography of a keystore."""
