"""Records: one HDF5 file for a run, written unit by unit, and readable without this package."""

from landscape.record.growing import GrowingRecord
from landscape.record.hdf5 import readable
from landscape.record.join import join_records
from landscape.record.read import open_record, read_provenance, read_request, row_at
from landscape.record.request import Request
from landscape.record.write import RecordWriter

__all__ = [
    "GrowingRecord",
    "RecordWriter",
    "Request",
    "join_records",
    "open_record",
    "read_provenance",
    "read_request",
    "readable",
    "row_at",
]
