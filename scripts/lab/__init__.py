"""A lab of virtual machines on this machine: Debian as users have it, for the roles to be tried on."""
