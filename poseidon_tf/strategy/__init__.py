"""The strategy, the only package that imports TensorFlow: hooks, graphs, agreement."""
