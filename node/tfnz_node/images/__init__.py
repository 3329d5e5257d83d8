"""Images: archives read as an attacker's data, layers stored by verified digest, a catalogue of names."""
