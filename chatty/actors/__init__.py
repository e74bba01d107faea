"""The actors of a node, over the runtime in ``chatty.actors.runtime``."""
