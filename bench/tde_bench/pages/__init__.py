"""``tde-bench pages``: the page cipher alone, next to its competitors and its limits."""
