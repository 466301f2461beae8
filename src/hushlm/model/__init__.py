"""The decoder-only language model of an architecture, and its exchange with Hugging Face's GPT-2."""
