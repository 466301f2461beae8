"""The whole way once: corpus, five training runs, a table, figures, and a private answer between two processes."""
