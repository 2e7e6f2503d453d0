"""What the machine has and lacks: checks of `doctor`, programs, packages, health."""
