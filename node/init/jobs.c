#include "jobs.h"

#include <sys/wait.h>

#include "control.h"

// An entry is free, running (pid > 0) or ended (pid == 0). The table is the queue of exits, so none is ever lost and its
// size is bounded. An end that was told stays in it when the daemon is to say that it will not need to be told again.
static struct job {
	bool used, kept, told;
	uint32_t id;
	pid_t pid;
	int status;
} jobs[JOBS_MAX];

static unsigned used_count;
static unsigned untold_count; // have ended, and the daemon has not been told
static struct {
	bool begun;
	uint32_t nonce;
	unsigned next; // of the table: what comes before it has been told
} resync;
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

void jobs_add(uint32_t id, pid_t pid, bool is_kept)
{
	unsigned i = 0;
	while (jobs[i].used)
		i++;
	jobs[i] = (struct job){.used = true, .kept = is_kept, .id = id, .pid = pid};
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
		untold_count++;
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
	while (top > 0 && !jobs[top - 1].used)
		top--;
}

static void note_told(struct job *job)
{
	job->told = true;
	untold_count--;
	if (!job->kept)
		forget(job);
}

void jobs_forget(uint32_t id)
{
	struct job *job = find_id(id);
	if (job && job->pid == 0 && job->told)
		forget(job);
}

void jobs_resync(uint32_t nonce)
{
	for (unsigned i = 0; i < top; i++) {
		if (!jobs[i].used || !jobs[i].told)
			continue;
		jobs[i].told = false;
		untold_count++;
	}
	resync.begun = true;
	resync.nonce = nonce;
	resync.next = 0;
}

// What runs is told before the ends are: it is true then that what is not told has ended, or never was.
static bool report_running(void)
{
	for (; resync.next < top; resync.next++) {
		const struct job *job = &jobs[resync.next];
		if (job->used && job->pid != 0 && !control_report(KIND_RUNS, job->id, 0))
			return false;
	}
	return true;
}

static bool report_ends(void)
{
	for (unsigned i = 0; untold_count > 0 && i < top; i++) {
		if (!jobs[i].used || jobs[i].pid != 0 || jobs[i].told)
			continue;
		if (!control_report(KIND_EXITED, jobs[i].id, (uint32_t)jobs[i].status))
			return false;
		note_told(&jobs[i]);
	}
	return true;
}

bool jobs_report(void)
{
	if (resync.begun && !report_running())
		return true;
	if (!report_ends())
		return true;
	if (resync.begun) {
		if (!control_report(KIND_LISTED, resync.nonce, 0))
			return true;
		resync.begun = false;
	}
	return false;
}
