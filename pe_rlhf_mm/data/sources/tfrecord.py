"""TFRecord files of tf.train.Example, plain or GZIP, read without TensorFlow: AndroidControl, AitW, UIBert.

A record is its length (8 bytes), the checksum of the length (4), the payload and its checksum (4), all little-endian
(tensorflow.org/tutorials/load_data/tfrecord).
"""

from __future__ import annotations

import struct

import numpy as np

from pe_rlhf_mm.data.sources.crc32c import masked_crc32c
from pe_rlhf_mm.data.sources.files import Bytes, contents
from pe_rlhf_mm.data.sources.source import Row
from pe_rlhf_mm.data.sources.spans import Spans, SpanSource

HEAD, TAIL = 12, 4


class TFRecord(SpanSource):
    """The records of a file, each a row {feature: list of bytes, or an array of float32 or int64}.

    Every checksum is verified. A payload that fails is one bad row; a length that fails ends the file with one, as
    nothing else tells where the next record begins.
    """

    unit = "record"

    def _find(self) -> Spans:
        data, damage = contents(self.path)
        starts, end, wrong = _records(data)
        damage = damage or wrong
        if damage:
            starts.append(end)
        first = np.array(starts, np.int64)
        last = np.array([*starts[1:], end], np.int64)[: len(starts)]
        return Spans(data, first, last, np.arange(1, len(starts) + 1), damage)

    def _parse(self, content: bytes) -> Row:
        payload, checksum = content[HEAD:-TAIL], content[-TAIL:]
        if masked_crc32c(payload) != int.from_bytes(checksum, "little"):
            raise ValueError("its checksum is wrong: it is not what was written. Download the file again.")
        return parse_example(payload)


def _records(data: Bytes) -> tuple[list[int], int, str]:
    """Where the records begin, where the last of them ends, and why there are no more."""
    starts: list[int] = []
    at = 0
    while at < len(data):
        head = data[at : at + HEAD]
        if len(head) == HEAD and masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
            return (
                starts,
                at,
                (
                    "the checksum of its length is wrong, so it and all after it are lost. "
                    + ("Download the file again." if starts else "Is this a TFRecord file?")
                ),
            )
        end = at + HEAD + struct.unpack_from("<Q", head.ljust(HEAD, b"\0"))[0] + TAIL
        if end > len(data):
            return starts, at, "the file ends in the middle of it. Download the file again."
        starts.append(at)
        at = end
    return starts, at, ""


def parse_example(payload: bytes) -> Row:
    """The features of a serialized tf.train.Example; one without values is an empty list.

    Raises ValueError if it is none. The parser is the one TFDS ships, which does not load TensorFlow.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        example = tf_example_pb2.Example.FromString(payload)
    except DecodeError as error:
        raise ValueError(f"it is no tf.train.Example ({error}).") from error
    row: Row = {}
    for name, feature in example.features.feature.items():
        match feature.WhichOneof("kind"):
            case "float_list":
                row[name] = np.array(feature.float_list.value, np.float32)
            case "int64_list":
                row[name] = np.array(feature.int64_list.value, np.int64)
            case _:
                row[name] = list(feature.bytes_list.value)
    return row
