"""What is installed: manual pages, wheels and the Debian package."""
