"""Goals on the pages of MiniWoB++, in a real browser."""
