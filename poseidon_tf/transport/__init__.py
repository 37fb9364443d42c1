"""Moving messages between processes; `base` is the contract, gRPC the one carrier."""
