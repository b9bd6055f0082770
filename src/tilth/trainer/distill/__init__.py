"""A student learns from a teacher: its matrices, its streams, its predictions; and from answers and preferences."""
