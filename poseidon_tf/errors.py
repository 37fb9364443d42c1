"""What can go wrong, and who should act.

PoseidonError
  ConfigError               the cluster description or an argument is wrong   (user)
  PlanError                 the plan does not fit the model, or the workers
                            do not agree on it                                (user)
  MemberError               a member is missing, left or died                 (operator)
    StartTimeout            ... not everyone arrived before the deadline
    PeerLost                ... a connection closed without a goodbye
    StepTimeout             ... alive, but a contribution never came
  DriftError                workers hold other values than each other         (user)
  NumericsError             a worker's own gradient is not finite             (user)
  ProtocolError             a peer said something impossible                  (bug)
"""


class PoseidonError(Exception):
    """Base of every error that poseidon_tf raises on purpose."""


class ConfigError(PoseidonError, ValueError):
    """A cluster description or an argument is wrong; the message says how to mend it."""


class PlanError(PoseidonError, ValueError):
    """The communication plan does not fit the model, or the workers disagree on it."""


class MemberError(PoseidonError):
    """A worker, server or coordinator is missing, has left, or has died."""


class StartTimeout(MemberError):
    """Not every member of the cluster arrived before the start deadline."""


class PeerLost(MemberError):
    """A connection to a member closed without a goodbye."""


class StepTimeout(MemberError):
    """A member is alive, but a contribution that others wait for never came."""


class DriftError(PoseidonError):
    """A variable that all workers must hold alike has other values on some of them."""


class NumericsError(PoseidonError):
    """A worker's own contribution to a gradient holds NaN or infinity."""


class ProtocolError(PoseidonError):
    """A peer sent something that the protocol does not allow; no state was changed."""
