"""The guest, process 1 of every sandbox (`guest.c` and its units), and its codec (`wire.py`)."""
