"""Bytes to records: archives, compressed streams, tar, 7z and XML, read in bounded memory; damage costs the record it is in."""
