"""The machine below a server, as the kernel describes it."""
