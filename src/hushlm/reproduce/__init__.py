"""The published figures as data, and the commands that put ours beside them."""
