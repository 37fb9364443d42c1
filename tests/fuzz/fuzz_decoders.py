"""What holds for the decoders whatever bytes they are given."""

from __future__ import annotations

import json

from fuzz_choices import Choices
from fuzz_seeds import SEEDS

from poseidon_tf.coordinator import codec
from poseidon_tf.coordinator.status_codec import decode_status, encode_status
from poseidon_tf.errors import PlanError, PoseidonError, ProtocolError
from poseidon_tf.planner import Plan
from poseidon_tf.wire import arrays, frames


def frame(data: bytes) -> None:
    """A header and one view per part, together the payload; or a ProtocolError."""
    try:
        header, views = frames.decode(data)
    except ProtocolError:
        return
    assert len(views) == len(header.parts) <= frames.MAX_PARTS
    for part, view in zip(header.parts, views, strict=True):
        assert len(view) == (0 if part.place else part.length)
    again, same = frames.decode(frames.encode(header, views))
    assert again == header and [bytes(view) for view in same] == [bytes(view) for view in views]


def member_message(data: bytes) -> None:
    """A whole message that comes back the same, or a ProtocolError."""
    try:
        message = codec.decode_member_message(data)
    except ProtocolError:
        return
    # As text: a time that is no number equals nothing, not even itself.
    assert repr(codec.decode_member_message(codec.encode_member_message(message))) == repr(message)


def coordinator_message(data: bytes) -> None:
    """The same of what the coordinator says."""
    try:
        message = codec.decode_coordinator_message(data)
    except ProtocolError:
        return
    again = codec.decode_coordinator_message(codec.encode_coordinator_message(message))
    assert repr(again) == repr(message)


def status(data: bytes) -> None:
    """The same of the answer to who asks how the job is doing."""
    try:
        read = decode_status(data)
    except ProtocolError:
        return
    assert decode_status(encode_status(read)) == read


def plan(data: bytes) -> None:
    """A plan that comes back the same, or one of our own errors."""
    try:
        read = Plan.from_json(data.decode(errors="replace"))
    except PlanError:
        return
    except PoseidonError as failure:
        raise AssertionError(f"another error of ours: {failure!r}") from failure
    assert Plan.from_json(read.to_json()) == read


def plan_fields(data: bytes) -> None:
    """The same of JSON that is a plan but for a few values: random bytes seldom are JSON at all."""
    choices = Choices(data)
    tree = json.loads(SEEDS["plan"][0])
    for _ in range(1 + choices.byte() % 3):
        place, key = {"plan": tree}, "plan"
        for _ in range(choices.byte() % 6):
            inside = place[key]
            keys = [*inside] if isinstance(inside, dict) else [*range(len(inside))]
            place, key = inside, choices.of(keys)
            if not isinstance(place[key], dict | list) or not place[key]:
                break
        place[key] = choices.of((None, True, -1, 0, 2**70, 0.5, 1e400, "", "ps", [], [0], {}, [{}]))
    plan(json.dumps(tree).encode())


def array_bytes(data: bytes) -> None:
    """Arrays whose bytes were all there, or a ProtocolError."""
    try:
        read = arrays.unpack(data)
    except ProtocolError:
        return
    assert sum(each.nbytes for each in read) <= len(data)


TARGETS = {
    "array_bytes": array_bytes,
    "plan_fields": plan_fields,
    "frame": frame,
    "member_message": member_message,
    "coordinator_message": coordinator_message,
    "status": status,
    "plan": plan,
}
