"""Elements of screens, told in words."""
