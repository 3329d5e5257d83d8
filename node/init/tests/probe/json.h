// JSON on standard output, written as it goes. Whoever begins a list or an object ends it.
#pragma once

// An object's member; NULL for what has no name: the top, and what is in a list.
void json_begin(const char *name, char bracket);
void json_end(char bracket);
void json_text(const char *name, const char *value);
void json_number(const char *name, long long value);
