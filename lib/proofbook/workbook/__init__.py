"""What a notebook holds: the case object, its displays and its scraps."""
