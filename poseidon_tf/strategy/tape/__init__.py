"""A tape whose gradients are sums."""
