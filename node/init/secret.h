// Secret files: their content lives in memory only, in a file system that nobody but their paths leads to.
#ifndef TFNZ_SECRET_H
#define TFNZ_SECRET_H

#include "error.h"
#include "file.h"
#include "users.h"

// Puts the content into the secrets' tmpfs and mounts that one file over an empty placeholder `name` in `dir`.
int secret_write(int dir, const char *name, const struct file_request *request, const struct user *user,
		 struct error *error);

// Hides the tmpfs itself. To be called before the first process of the container runs.
int secret_hide(struct error *error);

#endif
