"""Running stock PostgreSQL encrypted: installations, clusters, tablespaces, programs.

This is the front door for users of the library, also to audit, doctor and conversion, which stand
above this package. Its names are imported on first use; ``__init__.pyi`` lists them. Nothing in
the folders below comes in by it. docs/library.md has an example of each.
"""

from tde.lazy import lazy_package

__getattr__, __dir__, __all__ = lazy_package(__name__, __file__)
