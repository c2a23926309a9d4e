from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HeldRequest(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: bytes
    def __init__(self, round: _Optional[bytes] = ...) -> None: ...

class HeldReply(_message.Message):
    __slots__ = ("chunks",)
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    chunks: int
    def __init__(self, chunks: _Optional[int] = ...) -> None: ...

class WordChunk(_message.Message):
    __slots__ = ("round", "index", "words")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    round: bytes
    index: int
    words: bytes
    def __init__(self, round: _Optional[bytes] = ..., index: _Optional[int] = ..., words: _Optional[bytes] = ...) -> None: ...

class UploadReceipt(_message.Message):
    __slots__ = ("chunks",)
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    chunks: int
    def __init__(self, chunks: _Optional[int] = ...) -> None: ...

class CommittedRequest(_message.Message):
    __slots__ = ("round", "index", "offset")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    round: bytes
    index: int
    offset: int
    def __init__(self, round: _Optional[bytes] = ..., index: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class CommittedChunk(_message.Message):
    __slots__ = ("silo", "words", "path")
    SILO_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    silo: str
    words: bytes
    path: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, silo: _Optional[str] = ..., words: _Optional[bytes] = ..., path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ResultsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResultsReply(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("plan", "manifest")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    manifest: bytes
    def __init__(self, plan: _Optional[bytes] = ..., manifest: _Optional[bytes] = ...) -> None: ...

class FileRequest(_message.Message):
    __slots__ = ("candidate", "transcript", "opened_sum", "result", "offset")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    OPENED_SUM_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    candidate: bytes
    transcript: bytes
    opened_sum: bytes
    result: bytes
    offset: int
    def __init__(self, candidate: _Optional[bytes] = ..., transcript: _Optional[bytes] = ..., opened_sum: _Optional[bytes] = ..., result: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class FilePiece(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
