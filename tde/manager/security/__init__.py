"""Who may ask the manager: sessions, where requests come from, and how often they may try."""
