"""A session: the messages and checks before shares move, and the worker processes that compute."""
