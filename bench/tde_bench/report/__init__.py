"""``tde-bench report``: one page from any set of results."""
