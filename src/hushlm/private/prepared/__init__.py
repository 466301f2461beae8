"""Prepared answers: what does not depend on the prompt is computed before there is one, so that the answer itself needs no encryption.

Offline, the two parties multiply random masks with the weights and with each other by the engine's own homomorphic products; nobody deals
anything. Online they send each other values less these masks and multiply on their own machines. A mask hides one value, once.
"""
