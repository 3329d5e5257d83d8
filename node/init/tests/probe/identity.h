// Who this process is to the kernel, and what it was given.
#pragma once

// Writes "descriptors": first of all, before anything else is open.
void report_descriptors(void);

// Writes "status", "uid_map", "limits", "namespaces", "mounts", "cgroups" and "sockets".
void report_identity(void);
