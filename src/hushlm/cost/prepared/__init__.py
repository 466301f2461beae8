"""What prepared answers cost: the material made beforehand, the answer itself, and what is kept meanwhile."""
