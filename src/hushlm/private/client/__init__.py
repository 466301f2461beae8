"""The client: asks a server to continue a prompt, and shows it nothing of the prompt but its length."""
