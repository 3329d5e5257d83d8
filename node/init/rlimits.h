// What a single process may take of the kernel's own resources; memory, processors and processes are for the cgroups.
#ifndef TFNZ_RLIMITS_H
#define TFNZ_RLIMITS_H

// Sets every limit to its value in the table, or to the host's where that is lower. -1 and errno when refused.
int rlimits_clamp(void);

#endif
