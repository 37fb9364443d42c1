"""What Keras does not ask of a strategy and a cluster needs: hooks around its methods."""
