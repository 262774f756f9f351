"""Text: summaries, and replies in conversations."""
