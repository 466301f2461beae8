"""What private inference of an architecture costs, before there is a model: counts, bytes, seconds, memory.

Needs neither weights nor the engine: everything follows from an `Architecture`, a `ModelShape` and the plan of the computation.
"""
