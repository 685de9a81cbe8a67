"""Service managers that start servers by themselves: postgresql-common's programs, and systemd."""
