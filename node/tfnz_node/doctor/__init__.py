"""The doctor: looks at a host, and says what it lacks to run containers and what to do about it."""
