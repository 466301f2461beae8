"""A model of Hugging Face made cheap to serve privately: sample text, range of its numbers, recipes, and the import itself."""
