"""A trained model made cheaper: rewritten into another architecture, refitted layer by layer, trained towards what it was."""
