"""The keystore: a directory of wrapped keys that one passphrase opens."""
