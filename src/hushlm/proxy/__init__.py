"""An OpenAI-compatible endpoint on the client's own machine: tools that speak that protocol ask privately without knowing it."""
