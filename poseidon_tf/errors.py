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

from typing import ClassVar


class PoseidonError(Exception):
    """Base of every error that poseidon_tf raises on purpose.

    Attributes:
      what_to_do: advice to whoever reads that a job has failed of it; empty where the message of
        each such error says so itself.
    """

    what_to_do: ClassVar[str] = ""


class ConfigError(PoseidonError, ValueError):
    """A cluster description or an argument is wrong; the message says how to mend it."""


class PlanError(PoseidonError, ValueError):
    """The communication plan does not fit the model, or the workers disagree on it."""


class MemberError(PoseidonError):
    """A worker, server or coordinator is missing, has left, or has died."""

    what_to_do = "read the log of the member that is named"


class StartTimeout(MemberError):
    """Not every member of the cluster arrived before the start deadline."""

    what_to_do = (
        "see whether the missing members were started, with which TF_CONFIG or rank, and whether "
        "their addresses can be reached from here"
    )


class PeerLost(MemberError):
    """A connection to a member closed without a goodbye."""

    what_to_do = (
        "see how the member that is named has ended: its own log, and the kernel's (dmesg), which "
        "names processes that were killed because memory ran out"
    )


class StepTimeout(MemberError):
    """A member is alive, but a contribution that others wait for never came."""

    what_to_do = (
        "see what holds up the member that owes something; where that is in order, give it longer "
        "with Deadlines(step_s=...)"
    )


class DriftError(PoseidonError):
    """A variable that all workers must hold alike has other values on some of them."""

    what_to_do = "look for what this variable is changed by on some workers only"


class NumericsError(PoseidonError):
    """A worker's own contribution to a gradient, or a sum in float16, holds NaN or infinity."""

    what_to_do = (
        "look at the data of the worker that is named; a lower learning rate or the optimizer's "
        "`clipnorm` may help"
    )


class ProtocolError(PoseidonError):
    """A peer sent something that the protocol does not allow; no state was changed."""

    what_to_do = (
        "see whether another program or another version of poseidon_tf has one of these addresses; "
        "if not, this is a bug: please report it with this text"
    )
