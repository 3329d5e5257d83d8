"""What the node must remember when it is not running: a small store of bytes by kind and key."""
