"""The guest, process 1 of every sandbox, in C, and the codec of its protocol in Python."""
