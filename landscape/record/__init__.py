"""One HDF5 file for one run: written one finished unit after the other, read without this package too."""

from landscape.record.hdf5 import readable
from landscape.record.join import join_records
from landscape.record.read import open_record, read_provenance, read_request, row_at
from landscape.record.request import Request
from landscape.record.write import RecordWriter

__all__ = [
    "RecordWriter",
    "Request",
    "join_records",
    "open_record",
    "read_provenance",
    "read_request",
    "readable",
    "row_at",
]
