"""`/v1/chat/completions`: conversations become prompts by a chat template, and answers become turns."""
