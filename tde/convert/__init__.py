"""Encrypting and decrypting existing clusters in place (``tde pg encrypt``, ``tde pg decrypt``)."""
