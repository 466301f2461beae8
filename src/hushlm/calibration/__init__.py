"""Two real parties at work.

What they move and how long they take is counted, the constants of `hushlm.cost` are fitted to it, and predictions are compared with it.
"""
