// Writing all of something to a descriptor.
#ifndef TFNZ_STREAM_H
#define TFNZ_STREAM_H

#include <stddef.h>

// 0, or -1 and errno.
int stream_write_all(int fd, const void *data, size_t size);

#endif
