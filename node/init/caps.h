// What a process in the container may do at most, whoever it is.
#ifndef TFNZ_CAPS_H
#define TFNZ_CAPS_H

// Takes everything but the allowed capabilities away for good: bounding, permitted, effective, inheritable and
// ambient sets. To be called with CAP_SETPCAP. -1 and errno when the kernel refuses.
int caps_confine(void);

#endif
