"""All targets by name: those that are given bytes, and those that make events of them."""

import fuzz_clients
import fuzz_coordinator
import fuzz_decoders
import fuzz_lane
import fuzz_ledger
import fuzz_services

DECODERS = fuzz_decoders.TARGETS
CONNECTIONS = fuzz_lane.TARGETS
SERVICES = {
    **fuzz_services.TARGETS,
    **fuzz_coordinator.TARGETS,
    **fuzz_clients.TARGETS,
    **fuzz_ledger.TARGETS,
}
