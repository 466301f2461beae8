"""The demo goes the whole way once: a corpus, five training runs, a table, figures, and a private answer between two processes."""
