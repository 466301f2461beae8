"""The service: accepts clients, queues them, and runs one session each."""
