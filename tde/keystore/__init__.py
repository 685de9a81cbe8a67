"""The keystore: a directory of wrapped keys that one passphrase opens.

with Keystore.open(Path("/etc/tde/main"), passphrase) as keystore:
    keystore.create_key(KeyOwner.tablespace(16400), Algorithm.AES256)

The names of the package are imported on first use; ``__init__.pyi`` lists them.
"""

from tde.lazy import lazy_package

__getattr__, __dir__, __all__ = lazy_package(__name__, __file__)
