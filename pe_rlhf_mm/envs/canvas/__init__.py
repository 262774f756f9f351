"""Screens drawn in Python, to tune agents on without a browser."""
