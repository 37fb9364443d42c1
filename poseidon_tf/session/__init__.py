"""One training step's communication on a worker: syncers, the session, what was counted."""
