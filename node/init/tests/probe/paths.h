// What is in /proc, /sys and /dev: what can be opened for writing, what shows something, and devices.
#pragma once

// Writes the members "writable", "shown", "devices" and "device_nodes". Nothing is written to what it opens.
void report_paths(void);
