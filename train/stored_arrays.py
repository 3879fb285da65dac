"""Arrays of a mesh as objects of a store: each process writes the parts of its devices, and reads what they need.

    00000-of-00002.0000.bin ...    the parts that process 0 holds, one after the other, in objects of `OBJECT` bytes
    00000-of-00002.json            written last: where each part lies, and which box of which array it is

Any number of processes, on any mesh, can read them. Nothing but the parts themselves is held in memory.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from tessy_jax.storage.store import Store

OBJECT = 128 << 20
"""Bytes of an object, but for the last of a process."""

_FORMAT = "tessy_jax arrays 1"
_AT_ONCE = 8
"""Arrays that are read at the same time."""

Box = tuple[tuple[int, int], ...]
"""Where a part begins and ends along each axis."""


class Part(NamedTuple):
    """A part of an array on the host."""

    array: str
    box: Box
    data: Shaped[np.ndarray, "..."]


class Kind(NamedTuple):
    """What an array is as a whole."""

    dtype: str
    shape: tuple[int, ...]


def kinds_of(arrays: Mapping[str, jax.Array]) -> dict[str, Kind]:
    """What the arrays are, by name."""
    return {name: Kind(str(array.dtype), array.shape) for name, array in arrays.items()}


def own_parts(arrays: Mapping[str, jax.Array]) -> list[Part]:
    """The parts that this process is to write, on the host: those that several devices hold are dealt out to them."""
    shards, dealt = [], 0
    for name, array in arrays.items():
        boxes = [_box(index or (), array.shape) for index in array.sharding.devices_indices_map(array.shape).values()]
        parts = {box: number for number, box in enumerate(dict.fromkeys(boxes), start=dealt)}
        dealt += len(parts)
        holders = len(boxes) // len(parts)
        for shard in array.addressable_shards:
            box = _box(shard.index, array.shape)
            if shard.replica_id == parts[box] % holders:
                shards.append((name, box, shard.data))
    for _, _, data in shards:
        data.copy_to_host_async()
    return [Part(name, box, np.asarray(data)) for name, box, data in shards]


def write(store: Store, process: str, kinds: Mapping[str, Kind], parts: Sequence[Part]) -> None:
    """Writes the parts of a process, "00000-of-00002". Raises StorageError where the store fails."""
    sizes: list[int] = []
    listed: list[tuple[str, Box, int]] = []
    buffer, offset = bytearray(), 0
    for part in parts:
        listed.append((part.array, part.box, offset))
        data = np.ascontiguousarray(part.data).reshape(-1).view(np.uint8).data
        offset += len(data)
        while len(data):
            room = OBJECT - len(buffer)
            buffer += data[:room]
            data = data[room:]
            if len(buffer) == OBJECT:
                _write_object(store, process, sizes, buffer)
    if buffer:
        _write_object(store, process, sizes, buffer)
    values = {"format": _FORMAT, "object": OBJECT, "sizes": sizes, "arrays": kinds, "parts": listed}
    store.write(list_name(process), json.dumps(values).encode())


def _write_object(store: Store, process: str, sizes: list[int], buffer: bytearray) -> None:
    store.write(object_name(process, len(sizes)), bytes(buffer))
    sizes.append(len(buffer))
    buffer.clear()


def list_name(process: str) -> str:
    return f"{process}.json"


def object_name(process: str, number: int) -> str:
    return f"{process}.{number:04d}.bin"


class _Place(NamedTuple):
    """Where a part lies: in the objects of a process, from a byte on."""

    process: "Listed"
    box: Box
    offset: int


@dataclass(frozen=True)
class Listed:
    """What a process has written.

    Attributes:
        process: its name.
        object, sizes: bytes of an object, and of each one.
        arrays: all of them, as a whole.
        parts: array, box, and first byte of each part of this process.
    """

    process: str
    object: int
    sizes: list[int]
    arrays: dict[str, Kind]
    parts: list[tuple[str, Box, int]]

    @classmethod
    def from_json(cls, process: str, data: bytes) -> "Listed":
        """Raises ValueError where it is none of this format."""
        values = json.loads(data)
        if values["format"] != _FORMAT:
            raise ValueError(f"has the format {values['format']!r}")
        arrays = {name: Kind(dtype, tuple(shape)) for name, (dtype, shape) in values["arrays"].items()}
        parts = [(name, tuple((a, b) for a, b in box), offset) for name, box, offset in values["parts"]]
        return cls(process, values["object"], values["sizes"], arrays, parts)

    def objects(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of its objects."""
        return ((object_name(self.process, number), size) for number, size in enumerate(self.sizes))


class StoredArrays:
    """The arrays that all processes have written into one folder of a store."""

    def __init__(self, store: Store, processes: Sequence[Listed]):
        self._store = store
        self._arrays = processes[0].arrays
        self._places: dict[str, list[_Place]] = {}
        for process in processes:
            for name, box, offset in process.parts:
                self._places.setdefault(name, []).append(_Place(process, box, offset))

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """The arrays, laid out as they are wanted; each process reads what its devices are to hold.

        Raises:
            ValueError: there are other arrays than these, or they are not whole.
            StorageError: the store fails.
        """
        kinds = {name: Kind(str(one.dtype), one.shape) for name, one in wanted.items()}
        if different := sorted(n for n in kinds | self._arrays if kinds.get(n) != self._arrays.get(n)):
            name = different[0]
            raise ValueError(f"it is of another model: {name} is {self._arrays.get(name)}, not {kinds.get(name)}")
        with ThreadPoolExecutor(_AT_ONCE) as readers:
            found = readers.map(self._read, wanted.keys(), wanted.values())
            return dict(zip(wanted, found, strict=True))

    def _read(self, name: str, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        boxes: dict[Box, np.ndarray] = {}
        parts = []
        assert wanted.sharding is not None
        for device, index in wanted.sharding.addressable_devices_indices_map(wanted.shape).items():
            box = _box(index or (), wanted.shape)
            if box not in boxes:
                boxes[box] = self._read_box(name, box, jnp.dtype(wanted.dtype))
            parts.append(jax.device_put(boxes[box], device))
        return jax.make_array_from_single_device_arrays(wanted.shape, wanted.sharding, parts)

    def _read_box(self, name: str, box: Box, dtype: np.dtype) -> np.ndarray:
        out = np.empty([end - begin for begin, end in box], dtype)
        filled = 0
        for place in self._places.get(name, ()):
            common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, place.box, strict=True)]
            if all(begin < end for begin, end in common):
                block = self._read_common(place, common, dtype)
                out[tuple(slice(a - at, b - at) for (a, b), (at, _) in zip(common, box, strict=True))] = block
                filled += block.size
        if filled != out.size:
            raise ValueError(f"of {name}, {filled} of {out.size} numbers are there")
        return out

    def _read_common(self, place: _Place, common: Sequence[tuple[int, int]], dtype: np.dtype) -> np.ndarray:
        """What is asked for of a part: whole rows of it are read."""
        shape = [end - begin for begin, end in place.box]
        inside = [(a - at, b - at) for (a, b), (at, _) in zip(common, place.box, strict=True)]
        first, last = inside[0] if inside else (0, 1)
        row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        data = self._bytes(place.process, place.offset + first * row, (last - first) * row)
        block = np.frombuffer(data, np.uint8).view(dtype).reshape((last - first, *shape[1:]) if shape else ())
        return block[(slice(None), *(slice(a, b) for a, b in inside[1:]))] if shape else block

    def _bytes(self, process: Listed, start: int, size: int) -> bytes:
        """Bytes of what a process has written, over the ends of objects."""
        pieces, end = [], start + size
        while start < end:
            number, at = divmod(start, process.object)
            length = min(end - start, process.object - at)
            pieces.append(self._store.read_range(object_name(process.process, number), at, length))
            if len(pieces[-1]) != length:
                raise ValueError(f"{object_name(process.process, number)} is shorter than it was")
            start += length
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _box(index: Sequence[Any], shape: Sequence[int]) -> Box:
    """Slices of an array as numbers."""
    return tuple(each.indices(size)[:2] for each, size in zip(index, shape, strict=True))
