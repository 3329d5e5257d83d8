"""Running containers: bringing them up, watching over them, and taking them down."""
