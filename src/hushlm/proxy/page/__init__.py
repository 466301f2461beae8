"""The page that `hushlm proxy` shows to a browser of its own machine: ask, watch, and see what leaves the machine."""
