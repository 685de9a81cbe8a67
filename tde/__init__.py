"""Transparent data encryption for stock, unmodified PostgreSQL.

The names of the package are imported on first use; ``__init__.pyi`` lists them.
"""

from tde.lazy import lazy_package

__getattr__, __dir__, __all__ = lazy_package(__name__, __file__)
