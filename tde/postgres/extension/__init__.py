"""The SQL extension: building and installing it, and what its functions have done."""
