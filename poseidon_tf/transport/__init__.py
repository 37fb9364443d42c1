"""Moving messages between processes; `base` is the contract, `over_grpc` the one carrier."""
