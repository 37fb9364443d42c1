"""What the traced step is: products, rows, and the route out of the graph and back."""
