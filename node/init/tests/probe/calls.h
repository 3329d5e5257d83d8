// Which system calls come through the filters of this process.
#pragma once

// Writes the members "calls", by architecture and number, and "particular_calls", by what they ask for. No call is made.
void report_calls(void);
