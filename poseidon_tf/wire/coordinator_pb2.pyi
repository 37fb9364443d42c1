from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_WORKER: _ClassVar[Role]
    ROLE_SERVER: _ClassVar[Role]

class FailureKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_KIND_UNSPECIFIED: _ClassVar[FailureKind]
    FAILURE_KIND_MEMBER_ERROR: _ClassVar[FailureKind]
    FAILURE_KIND_START_TIMEOUT: _ClassVar[FailureKind]
    FAILURE_KIND_PEER_LOST: _ClassVar[FailureKind]
    FAILURE_KIND_STEP_TIMEOUT: _ClassVar[FailureKind]
    FAILURE_KIND_CONFIG_ERROR: _ClassVar[FailureKind]
    FAILURE_KIND_PROTOCOL_ERROR: _ClassVar[FailureKind]
    FAILURE_KIND_NOT_NOW: _ClassVar[FailureKind]
    FAILURE_KIND_PLAN_ERROR: _ClassVar[FailureKind]
    FAILURE_KIND_DRIFT_ERROR: _ClassVar[FailureKind]
    FAILURE_KIND_NUMERICS_ERROR: _ClassVar[FailureKind]

class Presence(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRESENCE_UNSPECIFIED: _ClassVar[Presence]
    PRESENCE_EXPECTED: _ClassVar[Presence]
    PRESENCE_HERE: _ClassVar[Presence]
    PRESENCE_LEFT: _ClassVar[Presence]
ROLE_UNSPECIFIED: Role
ROLE_WORKER: Role
ROLE_SERVER: Role
FAILURE_KIND_UNSPECIFIED: FailureKind
FAILURE_KIND_MEMBER_ERROR: FailureKind
FAILURE_KIND_START_TIMEOUT: FailureKind
FAILURE_KIND_PEER_LOST: FailureKind
FAILURE_KIND_STEP_TIMEOUT: FailureKind
FAILURE_KIND_CONFIG_ERROR: FailureKind
FAILURE_KIND_PROTOCOL_ERROR: FailureKind
FAILURE_KIND_NOT_NOW: FailureKind
FAILURE_KIND_PLAN_ERROR: FailureKind
FAILURE_KIND_DRIFT_ERROR: FailureKind
FAILURE_KIND_NUMERICS_ERROR: FailureKind
PRESENCE_UNSPECIFIED: Presence
PRESENCE_EXPECTED: Presence
PRESENCE_HERE: Presence
PRESENCE_LEFT: Presence

class MemberMessage(_message.Message):
    __slots__ = ("join", "gather", "failure", "goodbye", "ping", "stop_offer", "announce", "figures", "server_figures")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    GATHER_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    STOP_OFFER_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCE_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIGURES_FIELD_NUMBER: _ClassVar[int]
    join: Join
    gather: Gather
    failure: MemberFailure
    goodbye: Goodbye
    ping: Ping
    stop_offer: StopOffer
    announce: Announce
    figures: Figures
    server_figures: ServerFigures
    def __init__(self, join: _Optional[_Union[Join, _Mapping]] = ..., gather: _Optional[_Union[Gather, _Mapping]] = ..., failure: _Optional[_Union[MemberFailure, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., stop_offer: _Optional[_Union[StopOffer, _Mapping]] = ..., announce: _Optional[_Union[Announce, _Mapping]] = ..., figures: _Optional[_Union[Figures, _Mapping]] = ..., server_figures: _Optional[_Union[ServerFigures, _Mapping]] = ...) -> None: ...

class CoordinatorMessage(_message.Message):
    __slots__ = ("roster", "gathered", "notice", "failure", "left", "ended", "pong", "stop_asked", "stop_agreed", "announced")
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    GATHERED_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    STOP_ASKED_FIELD_NUMBER: _ClassVar[int]
    STOP_AGREED_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCED_FIELD_NUMBER: _ClassVar[int]
    roster: Roster
    gathered: Gathered
    notice: Notice
    failure: Failure
    left: Left
    ended: Ended
    pong: Pong
    stop_asked: StopAsked
    stop_agreed: StopAgreed
    announced: Announced
    def __init__(self, roster: _Optional[_Union[Roster, _Mapping]] = ..., gathered: _Optional[_Union[Gathered, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., left: _Optional[_Union[Left, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., stop_asked: _Optional[_Union[StopAsked, _Mapping]] = ..., stop_agreed: _Optional[_Union[StopAgreed, _Mapping]] = ..., announced: _Optional[_Union[Announced, _Mapping]] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("role", "rank", "address", "info", "num_workers", "num_servers")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    NUM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    NUM_SERVERS_FIELD_NUMBER: _ClassVar[int]
    role: Role
    rank: int
    address: str
    info: bytes
    num_workers: int
    num_servers: int
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., rank: _Optional[int] = ..., address: _Optional[str] = ..., info: _Optional[bytes] = ..., num_workers: _Optional[int] = ..., num_servers: _Optional[int] = ...) -> None: ...

class Gather(_message.Message):
    __slots__ = ("name", "payload", "timeout_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    payload: bytes
    timeout_s: float
    def __init__(self, name: _Optional[str] = ..., payload: _Optional[bytes] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class MemberFailure(_message.Message):
    __slots__ = ("text", "kind")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    text: str
    kind: FailureKind
    def __init__(self, text: _Optional[str] = ..., kind: _Optional[_Union[FailureKind, str]] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("last_step", "preempted")
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    PREEMPTED_FIELD_NUMBER: _ClassVar[int]
    last_step: int
    preempted: bool
    def __init__(self, last_step: _Optional[int] = ..., preempted: bool = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("t",)
    T_FIELD_NUMBER: _ClassVar[int]
    t: float
    def __init__(self, t: _Optional[float] = ...) -> None: ...

class StopOffer(_message.Message):
    __slots__ = ("number", "after", "timeout_s")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    number: int
    after: int
    timeout_s: float
    def __init__(self, number: _Optional[int] = ..., after: _Optional[int] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class Announce(_message.Message):
    __slots__ = ("topic", "payload")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    topic: str
    payload: bytes
    def __init__(self, topic: _Optional[str] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Figures(_message.Message):
    __slots__ = ("steps", "steps_per_s", "step_s", "own_s", "waiting_s", "communicating_s", "total_waiting_s", "total_communicating_s", "ps_bytes", "sfb_bytes", "rows_bytes", "ring_all_reduce_bytes", "reconnections", "oldest_wait_s", "waits_for")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    OWN_S_FIELD_NUMBER: _ClassVar[int]
    WAITING_S_FIELD_NUMBER: _ClassVar[int]
    COMMUNICATING_S_FIELD_NUMBER: _ClassVar[int]
    TOTAL_WAITING_S_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COMMUNICATING_S_FIELD_NUMBER: _ClassVar[int]
    PS_BYTES_FIELD_NUMBER: _ClassVar[int]
    SFB_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROWS_BYTES_FIELD_NUMBER: _ClassVar[int]
    RING_ALL_REDUCE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    steps: int
    steps_per_s: float
    step_s: float
    own_s: float
    waiting_s: float
    communicating_s: float
    total_waiting_s: float
    total_communicating_s: float
    ps_bytes: int
    sfb_bytes: int
    rows_bytes: int
    ring_all_reduce_bytes: int
    reconnections: int
    oldest_wait_s: float
    waits_for: str
    def __init__(self, steps: _Optional[int] = ..., steps_per_s: _Optional[float] = ..., step_s: _Optional[float] = ..., own_s: _Optional[float] = ..., waiting_s: _Optional[float] = ..., communicating_s: _Optional[float] = ..., total_waiting_s: _Optional[float] = ..., total_communicating_s: _Optional[float] = ..., ps_bytes: _Optional[int] = ..., sfb_bytes: _Optional[int] = ..., rows_bytes: _Optional[int] = ..., ring_all_reduce_bytes: _Optional[int] = ..., reconnections: _Optional[int] = ..., oldest_wait_s: _Optional[float] = ..., waits_for: _Optional[str] = ...) -> None: ...

class ServerFigures(_message.Message):
    __slots__ = ("sums", "received_bytes", "sent_bytes", "summing_s", "sums_per_s", "summing", "last_rank", "last_part", "late_s", "oldest_wait_s", "waits_for")
    SUMS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SUMMING_S_FIELD_NUMBER: _ClassVar[int]
    SUMS_PER_S_FIELD_NUMBER: _ClassVar[int]
    SUMMING_FIELD_NUMBER: _ClassVar[int]
    LAST_RANK_FIELD_NUMBER: _ClassVar[int]
    LAST_PART_FIELD_NUMBER: _ClassVar[int]
    LATE_S_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    sums: int
    received_bytes: int
    sent_bytes: int
    summing_s: float
    sums_per_s: float
    summing: float
    last_rank: int
    last_part: float
    late_s: float
    oldest_wait_s: float
    waits_for: str
    def __init__(self, sums: _Optional[int] = ..., received_bytes: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., summing_s: _Optional[float] = ..., sums_per_s: _Optional[float] = ..., summing: _Optional[float] = ..., last_rank: _Optional[int] = ..., last_part: _Optional[float] = ..., late_s: _Optional[float] = ..., oldest_wait_s: _Optional[float] = ..., waits_for: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MemberStatus(_message.Message):
    __slots__ = ("role", "rank", "address", "presence", "figures", "figures_age_s", "server_figures")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    FIGURES_AGE_S_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIGURES_FIELD_NUMBER: _ClassVar[int]
    role: Role
    rank: int
    address: str
    presence: Presence
    figures: Figures
    figures_age_s: float
    server_figures: ServerFigures
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., rank: _Optional[int] = ..., address: _Optional[str] = ..., presence: _Optional[_Union[Presence, str]] = ..., figures: _Optional[_Union[Figures, _Mapping]] = ..., figures_age_s: _Optional[float] = ..., server_figures: _Optional[_Union[ServerFigures, _Mapping]] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("members", "running_s", "waits", "failure", "has_ended", "restarts")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_S_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    HAS_ENDED_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[MemberStatus]
    running_s: float
    waits: _containers.RepeatedScalarFieldContainer[str]
    failure: str
    has_ended: bool
    restarts: int
    def __init__(self, members: _Optional[_Iterable[_Union[MemberStatus, _Mapping]]] = ..., running_s: _Optional[float] = ..., waits: _Optional[_Iterable[str]] = ..., failure: _Optional[str] = ..., has_ended: bool = ..., restarts: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("role", "rank", "address", "info")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    role: Role
    rank: int
    address: str
    info: bytes
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., rank: _Optional[int] = ..., address: _Optional[str] = ..., info: _Optional[bytes] = ...) -> None: ...

class Roster(_message.Message):
    __slots__ = ("members", "data_seed", "incarnation")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    DATA_SEED_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    data_seed: int
    incarnation: int
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., data_seed: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class Gathered(_message.Message):
    __slots__ = ("name", "payloads")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    name: str
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, name: _Optional[str] = ..., payloads: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("kind", "text")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    kind: FailureKind
    text: str
    def __init__(self, kind: _Optional[_Union[FailureKind, str]] = ..., text: _Optional[str] = ...) -> None: ...

class Left(_message.Message):
    __slots__ = ("role", "rank", "last_step")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    role: Role
    rank: int
    last_step: int
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., rank: _Optional[int] = ..., last_step: _Optional[int] = ...) -> None: ...

class Announced(_message.Message):
    __slots__ = ("topic", "rank", "payload")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    topic: str
    rank: int
    payload: bytes
    def __init__(self, topic: _Optional[str] = ..., rank: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("preempted",)
    PREEMPTED_FIELD_NUMBER: _ClassVar[int]
    preempted: bool
    def __init__(self, preempted: bool = ...) -> None: ...

class StopAsked(_message.Message):
    __slots__ = ("number", "after")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    number: int
    after: int
    def __init__(self, number: _Optional[int] = ..., after: _Optional[int] = ...) -> None: ...

class StopAgreed(_message.Message):
    __slots__ = ("number", "after")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    number: int
    after: int
    def __init__(self, number: _Optional[int] = ..., after: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("t_echo", "coordinator_time_ns")
    T_ECHO_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    t_echo: float
    coordinator_time_ns: int
    def __init__(self, t_echo: _Optional[float] = ..., coordinator_time_ns: _Optional[int] = ...) -> None: ...
