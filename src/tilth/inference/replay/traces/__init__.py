"""Published traces of requests, a file for each format; `read.py` tells which one a file has."""
