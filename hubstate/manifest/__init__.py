"""The manifest, ``hubstate.json``: what a release holds, byte by byte, and what it means."""

from hubstate.manifest.document import MINOR, NAME, SCHEMA, Manifest
from hubstate.manifest.files import CHUNK, FileRecord, TensorRecord, chunks, header_of
from hubstate.manifest.hashing import hash_plain, hash_weights, verify_file
from hubstate.manifest.meaning import BuilderRecord, Probe, ProbeOutput
from hubstate.manifest.reading import parse, read_structure
from hubstate.manifest.structure import TENSOR_KINDS, Entry, Kind, structure_hash
from hubstate.manifest.writing import dump, write_entry
from hubstate.strictjson import Json

__all__ = [
    "CHUNK",
    "MINOR",
    "NAME",
    "SCHEMA",
    "TENSOR_KINDS",
    "BuilderRecord",
    "Entry",
    "FileRecord",
    "Json",
    "Kind",
    "Manifest",
    "Probe",
    "ProbeOutput",
    "TensorRecord",
    "chunks",
    "dump",
    "hash_plain",
    "hash_weights",
    "header_of",
    "parse",
    "read_structure",
    "structure_hash",
    "verify_file",
    "write_entry",
]
