"""Attention with exact row entropies, the entropy regulariser, and what head entropies say about a model."""
