"""OpenAI's completions: a text goes on."""
