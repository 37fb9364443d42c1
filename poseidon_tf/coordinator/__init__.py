"""Who takes part in the job: `roster` decides, `service` hosts it on rank 0, `client` asks it."""
