"""The private program: what is exported from a checkpoint, and how both parties run it step by step."""
