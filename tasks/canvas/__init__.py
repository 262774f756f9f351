"""Goals on screens that are drawn in Python."""
