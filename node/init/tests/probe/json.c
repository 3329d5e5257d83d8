#include "json.h"

#include <stdbool.h>
#include <stdio.h>

static bool has_before;

static void write_text(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < ' ' || c > '~')
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void begin_value(const char *name)
{
	if (has_before)
		fputs(",\n", stdout);
	has_before = true;
	if (name) {
		write_text(name);
		putchar(':');
	}
}

void json_begin(const char *name, char bracket)
{
	begin_value(name);
	putchar(bracket);
	has_before = false;
}

void json_end(char bracket)
{
	putchar(bracket);
	has_before = true;
}

void json_text(const char *name, const char *value)
{
	begin_value(name);
	write_text(value);
}

void json_number(const char *name, long long value)
{
	begin_value(name);
	printf("%lld", value);
}
