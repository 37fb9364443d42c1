"""The parameter server: `store` is its pure core, `service` and `client` its two ends."""
