"""The contest of perplexity against private bytes: which architectures, shapes and trainings are worth their price.

`hushlm frontier run` holds it.
"""
