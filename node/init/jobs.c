#include "jobs.h"

#include <sys/wait.h>

#include "control.h"

// An entry is free, running (pid > 0) or ended and not yet reported (pid == 0). The table is the queue of exits, so
// none is ever lost and its size is bounded.
static struct job {
	bool used;
	uint32_t id;
	pid_t pid;
	int status;
} jobs[JOBS_MAX];

static unsigned used_count, ended_count;
static unsigned top; // every entry from here on is free

bool jobs_are_full(void)
{
	return used_count == JOBS_MAX;
}

static struct job *find_id(uint32_t id)
{
	for (unsigned i = 0; i < top; i++)
		if (jobs[i].used && jobs[i].id == id)
			return &jobs[i];
	return NULL;
}

bool jobs_has(uint32_t id)
{
	return find_id(id) != NULL;
}

void jobs_add(uint32_t id, pid_t pid)
{
	unsigned i = 0;
	while (jobs[i].used)
		i++;
	jobs[i] = (struct job){.used = true, .id = id, .pid = pid};
	used_count++;
	if (i >= top)
		top = i + 1;
}

pid_t jobs_find(uint32_t id)
{
	const struct job *job = find_id(id);
	return job ? job->pid : 0;
}

static void note_end(pid_t pid, int status)
{
	for (unsigned i = 0; i < top; i++) {
		if (!jobs[i].used || jobs[i].pid != pid)
			continue;
		jobs[i].pid = 0;
		jobs[i].status = status;
		ended_count++;
		return;
	}
}

void jobs_reap(void)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		note_end(pid, status);
}

static void forget(struct job *job)
{
	job->used = false;
	used_count--;
	ended_count--;
	while (top > 0 && !jobs[top - 1].used)
		top--;
}

bool jobs_report(void)
{
	for (unsigned i = 0; ended_count > 0 && i < top; i++) {
		if (!jobs[i].used || jobs[i].pid != 0)
			continue;
		if (!control_exited(jobs[i].id, (uint32_t)jobs[i].status))
			return true;
		forget(&jobs[i]);
	}
	return ended_count > 0;
}
