"""The files of a keystore directory."""
