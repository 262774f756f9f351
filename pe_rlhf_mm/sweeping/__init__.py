"""Sweeps: the same tuning with other settings and other seeds, in a table."""
