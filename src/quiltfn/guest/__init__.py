"""The guest, process 1 of every sandbox (`guest.c`), and the codec of its frames (`wire.py`)."""
