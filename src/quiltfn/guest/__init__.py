"""The guest, process 1 of every sandbox (units of C; `guest.c` has its `main`), and the codec of its
frames (`wire.py`)."""
