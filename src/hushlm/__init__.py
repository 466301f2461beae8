"""Hush: language models that can be served without seeing the prompt."""
