"""What client and node say to each other: messages, errors, the reliable channel and streams; pure, without I/O."""
