"""The manifest, ``hubstate.json``: what a release holds, byte by byte, and what it means."""

from hubstate.manifest.document import MINOR, NAME, SCHEMA, Manifest
from hubstate.manifest.files import CHUNK, FileRecord, TensorRecord
from hubstate.manifest.meaning import BuilderRecord, Probe, ProbeOutput
from hubstate.manifest.structure import TENSOR_KINDS, Entry, Kind, structure_hash

__all__ = [
    "CHUNK",
    "MINOR",
    "NAME",
    "SCHEMA",
    "TENSOR_KINDS",
    "BuilderRecord",
    "Entry",
    "FileRecord",
    "Kind",
    "Manifest",
    "Probe",
    "ProbeOutput",
    "TensorRecord",
    "structure_hash",
]
