"""The obeying end of `lab.members`: one JSON order a line, one JSON answer each.

Standard library only: it runs in the peers' virtual environments too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any


def obey(orders: Mapping[str, Callable[..., Any]]) -> None:
    """Answer orders until the input ends: `{"do": name, **arguments}` calls `orders[name]`.

    Whatever the program prints goes to standard error, so that answers stay alone on theirs.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        answer = orders[order.pop("do")](**order)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
