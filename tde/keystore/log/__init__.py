"""The key log: who opened, changed, copied or failed to open a keystore (docs/format.md)."""
