"""Experiments on trained models: the paper's tables and figures run again, and the contest of perplexity against private bytes.

`paper` and `contest` each say what is run; the modules beside them tune, run, record and describe it alike for both.
"""
