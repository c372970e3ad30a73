"""The search space: operations, topologies, gates, and the supernet that runs one forward pass of them."""
