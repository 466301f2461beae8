"""The private program: what is exported of a checkpoint, and how both parties run it step by step."""
