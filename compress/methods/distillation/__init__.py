"""Knowledge distillation: teachers, weighted losses, and the signals that losses read."""
