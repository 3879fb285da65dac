"""Object storage: the one room that opens `s3://`, `gs://` and `memory://`, through fsspec.

paths names things on a store, store reads and writes objects, copies brings inputs here, spool keeps a run directory
there by commits, followed looks at one, outputs keeps logs and stores reports. Nothing else opens such a name: a
`StorePath` refuses to be opened as a file.
"""
