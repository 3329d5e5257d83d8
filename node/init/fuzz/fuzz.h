// What a fuzz target is: one function, to be called with any bytes, again and again.
#ifndef TFNZ_FUZZ_H
#define TFNZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
