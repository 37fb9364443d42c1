from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("header", "payload")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    header: FrameHeader
    payload: bytes
    def __init__(self, header: _Optional[_Union[FrameHeader, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class FrameHeader(_message.Message):
    __slots__ = ("parts", "credit", "refusal", "goodbye")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    credit: int
    refusal: str
    goodbye: Leave
    def __init__(self, parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., credit: _Optional[int] = ..., refusal: _Optional[str] = ..., goodbye: _Optional[_Union[Leave, _Mapping]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("key", "step", "length", "rows", "offset", "total", "place")
    KEY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    key: int
    step: int
    length: int
    rows: int
    offset: int
    total: int
    place: int
    def __init__(self, key: _Optional[int] = ..., step: _Optional[int] = ..., length: _Optional[int] = ..., rows: _Optional[int] = ..., offset: _Optional[int] = ..., total: _Optional[int] = ..., place: _Optional[int] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("last_step",)
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    last_step: int
    def __init__(self, last_step: _Optional[int] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("name", "dtype", "num_elements", "priority", "first_step")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    num_elements: int
    priority: int
    first_step: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., num_elements: _Optional[int] = ..., priority: _Optional[int] = ..., first_step: _Optional[int] = ...) -> None: ...

class KeyTable(_message.Message):
    __slots__ = ("rank", "keys", "to")
    RANK_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    rank: int
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    to: str
    def __init__(self, rank: _Optional[int] = ..., keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., to: _Optional[str] = ...) -> None: ...

class KeyNumbers(_message.Message):
    __slots__ = ("numbers",)
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, numbers: _Optional[_Iterable[int]] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("to",)
    TO_FIELD_NUMBER: _ClassVar[int]
    to: str
    def __init__(self, to: _Optional[str] = ...) -> None: ...

class KeyState(_message.Message):
    __slots__ = ("name", "contributions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    contributions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., contributions: _Optional[_Iterable[int]] = ...) -> None: ...

class InspectReply(_message.Message):
    __slots__ = ("keys", "held_bytes")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[KeyState]
    held_bytes: int
    def __init__(self, keys: _Optional[_Iterable[_Union[KeyState, _Mapping]]] = ..., held_bytes: _Optional[int] = ...) -> None: ...
