"""Measurements: each program prints a table, most of which the documentation shows."""

import signal
import sys

if sys.argv[0] == "-m":  # one of them is about to start; until its imports are done, nobody tells
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of Ctrl-C, which just ends it
