"""What the platform tells about itself: log, and later metrics, traces and audit."""
