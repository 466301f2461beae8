"""The online forms: every operation of a plan on words of shares, with prepared material."""
