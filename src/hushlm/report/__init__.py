"""What is shown to a reader: tables (terminal, Markdown, JSON) and figures (PNG)."""
