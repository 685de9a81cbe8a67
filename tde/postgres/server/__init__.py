"""PostgreSQL installations and servers: found, started, asked, stopped."""
