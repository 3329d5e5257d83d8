#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void error_clean(char *text, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c < 0x20 || c == 0x7f)
			text[i] = '?';
	}
}

static void name_number(struct error *error, int number)
{
	error->number = number;
	error->name = strerrorname_np(number);
	if (!error->name)
		error->name = "EUNKNOWN";
}

__attribute__((format(printf, 2, 0))) static void format_text(struct error *error, const char *format, va_list arguments)
{
	int length = vsnprintf(error->text, sizeof error->text, format, arguments);
	if (length < 0)
		error->text[0] = '\0';
	error_clean(error->text, strlen(error->text));
}

int error_set(struct error *error, int number, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	format_text(error, format, arguments);
	va_end(arguments);
	name_number(error, number);
	return -1;
}

int error_system(struct error *error, int number, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	format_text(error, format, arguments);
	va_end(arguments);
	name_number(error, number);
	size_t used = strlen(error->text);
	const char *description = strerrordesc_np(number);
	snprintf(error->text + used, sizeof error->text - used, ": %s", description ? description : "unknown error");
	return -1;
}

int error_set_link(struct error *error, const char *path, const char *target)
{
	error_set(error, ENOENT, "%.450s is a symbolic link to %.450s, which does not exist in the container", path,
		  target);
	error->name = "ELINK";
	return -1;
}
