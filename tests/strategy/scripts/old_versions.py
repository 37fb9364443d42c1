"""Asks for a strategy under the names of versions that are too old, as a script of a user does."""

import sys
import traceback
from typing import Any

import keras
import tensorflow as tf
from report import result


def refused(module: Any, version: str) -> list[str]:
    """What the user sees at the end of the traceback, and the names of what led to it."""
    now, module.__version__ = module.__version__, version
    try:
        import poseidon_tf

        poseidon_tf.PoseidonStrategy()
    except Exception as failure:
        chain = traceback.TracebackException.from_exception(failure)
        others = [str(each) for each in (chain.__cause__, chain.__context__) if each is not None]
        return ["".join(chain.format_exception_only()).rstrip(), *others]
    finally:
        module.__version__ = now
    return ["accepted"]


result("tensorflow", refused(tf, "2.15.1"))
result("keras", refused(keras, "3.9.2"))
result("nothing-built", "poseidon_tf.strategy.strategy" not in sys.modules)
result("now", refused(tf, tf.__version__))
