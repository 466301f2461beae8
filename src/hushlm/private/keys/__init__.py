"""Keys: certificates for mutual TLS, and what lies in a keys folder."""
