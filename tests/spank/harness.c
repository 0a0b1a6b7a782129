/*
 * Stands in for slurmstepd and slurmd around our notifier: calls its callbacks, answers what it asks
 * of Slurm, and has whoever drives the harness decide what time it is and how writing goes.
 *
 * Commands come on standard input, one per line, and each is answered by "done RESULT". While one
 * runs, the harness may ask something first, by a line that says what the notifier is about to do,
 * and goes on when that is answered:
 *
 *   poll NANOSECONDS      it waits for answers of the daemon for so long at most. Answers:
 *                         "late" (nothing came in all that time) or "after NANOSECONDS" (so much
 *                         time has gone by; look again)
 *   write LENGTH          it appends to a file; asked only after "ask writes". Answers: "go",
 *                         "part LENGTH" (only so much is written) or "fail ERRNO"
 *   open NAME             it opens a file; asked only after "ask opens". Answers: "go"
 *
 * Commands: see `commands` below. \xNN in values stands for that byte.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <slurm/spank.h>

#define MOST 64
#define LINE 65536

static enum spank_context context = S_CTX_REMOTE;
static char *arguments[MOST];
static int argument_count;
static char *job_environment[MOST]; /* NAME=VALUE */
static int job_environment_count;
static int64_t monotonic;     /* the notifier's clock; only polling makes it go on */
static int64_t realtime = -1; /* -1: the true one */
static bool ask_opens;
static bool ask_writes;

/* -- talking to whoever drives us -------------------------------------------------------------- */

static void say(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	vprintf(format, values);
	va_end(values);
	putchar('\n');
	fflush(stdout);
}

/* The next line, without its end; leaves when there is none. */
static char *listen_for_line(char *line)
{
	if (fgets(line, LINE, stdin) == NULL)
		exit(3);
	line[strcspn(line, "\n")] = '\0';
	return line;
}

static void unescape(char *text)
{
	char *out = text;

	for (; *text != '\0'; text++) {
		unsigned int byte;

		if (sscanf(text, "\\x%2x", &byte) == 1) {
			*out++ = (char)byte;
			text += 3;
		} else {
			*out++ = *text;
		}
	}
	*out = '\0';
}

/* -- what the notifier calls instead of the C library ------------------------------------------ */

int __real_clock_gettime(clockid_t clock, struct timespec *now);
ssize_t __real_write(int file, const void *bytes, size_t length);
int __real_open(const char *name, int flags, mode_t mode);
int __real_ppoll(struct pollfd *watched, nfds_t count, const struct timespec *limit,
		 const sigset_t *mask);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
ssize_t __wrap_write(int file, const void *bytes, size_t length);
int __wrap_open(const char *name, int flags, mode_t mode);
int __wrap_ppoll(struct pollfd *watched, nfds_t count, const struct timespec *limit,
		 const sigset_t *mask);

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int64_t value = clock == CLOCK_MONOTONIC ? monotonic : realtime;

	if (value < 0)
		return __real_clock_gettime(clock, now);
	now->tv_sec = value / 1000000000;
	now->tv_nsec = value % 1000000000;
	return 0;
}

int __wrap_ppoll(struct pollfd *watched, nfds_t count, const struct timespec *limit,
		 const sigset_t *mask)
{
	static const struct timespec at_once;
	static char line[LINE];
	int64_t most = limit->tv_sec * 1000000000 + limit->tv_nsec;
	int64_t passed;

	say("poll %" PRId64, most);
	if (sscanf(listen_for_line(line), "after %" SCNd64, &passed) != 1) {
		monotonic += most;
		return 0;
	}
	monotonic += passed;
	return __real_ppoll(watched, count, &at_once, mask);
}

int __wrap_open(const char *name, int flags, mode_t mode)
{
	static char line[LINE];

	if (ask_opens) {
		say("open %s", name);
		listen_for_line(line);
	}
	return __real_open(name, flags, (flags & O_CREAT) != 0 ? mode : 0);
}

ssize_t __wrap_write(int file, const void *bytes, size_t length)
{
	static char line[LINE];
	size_t part;

	if (!ask_writes)
		return __real_write(file, bytes, length);
	say("write %zu", length);
	listen_for_line(line);
	if (sscanf(line, "fail %d", &errno) == 1)
		return -1;
	if (sscanf(line, "part %zu", &part) == 1)
		length = part;
	return __real_write(file, bytes, length);
}

/* -- what it calls of Slurm -------------------------------------------------------------------- */

enum kind { NUMBER32, NUMBER16, NUMBER64, INTEGER };

static struct {
	const char *name;
	spank_item_t item;
	enum kind kind;
	bool known;
	int64_t value;
} items[] = {
	{"S_JOB_UID", S_JOB_UID, NUMBER32, false, 0},
	{"S_JOB_GID", S_JOB_GID, NUMBER32, false, 0},
	{"S_JOB_ID", S_JOB_ID, NUMBER32, false, 0},
	{"S_JOB_STEPID", S_JOB_STEPID, NUMBER32, false, 0},
	{"S_JOB_NNODES", S_JOB_NNODES, NUMBER32, false, 0},
	{"S_JOB_NODEID", S_JOB_NODEID, NUMBER32, false, 0},
	{"S_JOB_LOCAL_TASK_COUNT", S_JOB_LOCAL_TASK_COUNT, NUMBER32, false, 0},
	{"S_JOB_TOTAL_TASK_COUNT", S_JOB_TOTAL_TASK_COUNT, NUMBER32, false, 0},
	{"S_JOB_NCPUS", S_JOB_NCPUS, NUMBER16, false, 0},
	{"S_TASK_ID", S_TASK_ID, INTEGER, false, 0},
	{"S_TASK_GLOBAL_ID", S_TASK_GLOBAL_ID, NUMBER32, false, 0},
	{"S_TASK_EXIT_STATUS", S_TASK_EXIT_STATUS, INTEGER, false, 0},
	{"S_TASK_PID", S_TASK_PID, INTEGER, false, 0},
	{"S_STEP_ALLOC_MEM", S_STEP_ALLOC_MEM, NUMBER64, false, 0},
	{"S_JOB_ARRAY_ID", S_JOB_ARRAY_ID, NUMBER32, false, 0},
	{"S_JOB_ARRAY_TASK_ID", S_JOB_ARRAY_TASK_ID, NUMBER32, false, 0},
};

#define ITEMS (sizeof(items) / sizeof(items[0]))

spank_err_t spank_get_item(spank_t spank, spank_item_t item, ...)
{
	va_list targets;
	void *target;
	size_t i = 0;

	(void)spank;
	va_start(targets, item);
	target = va_arg(targets, void *);
	va_end(targets);
	while (i < ITEMS && items[i].item != item)
		i++;
	if (i == ITEMS || !items[i].known)
		return ESPANK_NOT_AVAIL;
	switch (items[i].kind) {
	case NUMBER16:
		*(uint16_t *)target = (uint16_t)items[i].value;
		break;
	case NUMBER32:
		*(uint32_t *)target = (uint32_t)items[i].value;
		break;
	case NUMBER64:
		*(uint64_t *)target = (uint64_t)items[i].value;
		break;
	case INTEGER:
		*(int *)target = (int)items[i].value;
		break;
	}
	return ESPANK_SUCCESS;
}

spank_err_t spank_getenv(spank_t spank, const char *name, char *buffer, int size)
{
	size_t length = strlen(name);

	(void)spank;
	for (int i = 0; i < job_environment_count; i++) {
		const char *value = job_environment[i] + length + 1;

		if (strncmp(job_environment[i], name, length) != 0 || value[-1] != '=')
			continue;
		snprintf(buffer, (size_t)size, "%s", value);
		return strlen(value) < (size_t)size ? ESPANK_SUCCESS : ESPANK_NOSPACE;
	}
	return ESPANK_ENV_NOEXIST;
}

spank_err_t spank_job_control_setenv(spank_t spank, const char *name, const char *value,
				     int overwrite)
{
	(void)spank;
	(void)overwrite;
	say("job control %s=%s", name, value);
	return ESPANK_SUCCESS;
}

enum spank_context spank_context(void)
{
	return context;
}

void slurm_error(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	printf("error ");
	vprintf(format, values);
	va_end(values);
	say("");
}

void slurm_info(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	printf("info ");
	vprintf(format, values);
	va_end(values);
	say("");
}

/* -- commands ---------------------------------------------------------------------------------- */

static int set_context(char *name)
{
	static const struct {
		const char *name;
		enum spank_context context;
	} contexts[] = {{"remote", S_CTX_REMOTE},
			{"script", S_CTX_JOB_SCRIPT},
			{"slurmd", S_CTX_SLURMD},
			{"srun", S_CTX_LOCAL},
			{"sbatch", S_CTX_ALLOCATOR}};

	for (size_t i = 0; i < sizeof(contexts) / sizeof(contexts[0]); i++)
		if (strcmp(contexts[i].name, name) == 0)
			context = contexts[i].context;
	return 0;
}

/* NAME VALUE; without VALUE it is not known. */
static int set_item(char *text)
{
	char *value = strchr(text, ' ');

	if (value != NULL)
		*value++ = '\0';
	for (size_t i = 0; i < ITEMS; i++) {
		if (strcmp(items[i].name, text) != 0)
			continue;
		items[i].known = value != NULL;
		items[i].value = value != NULL ? strtoll(value, NULL, 0) : 0;
		return 0;
	}
	return -1;
}

static int keep(char **list, int *count, const char *text)
{
	if (*count == MOST)
		return -1;
	list[(*count)++] = strdup(text);
	return 0;
}

static int add_argument(char *text)
{
	return keep(arguments, &argument_count, text);
}

/* In place of one that has the same name. */
static int set_variable(char *text)
{
	size_t length = strcspn(text, "=") + 1;

	for (int i = 0; i < job_environment_count; i++) {
		if (strncmp(job_environment[i], text, length) != 0)
			continue;
		free(job_environment[i]);
		job_environment[i] = strdup(text);
		return 0;
	}
	return keep(job_environment, &job_environment_count, text);
}

static int set_own_variable(char *text)
{
	char *value = strchr(text, '=');

	*value = '\0';
	return setenv(text, value + 1, 1);
}

static int set_realtime(char *text)
{
	realtime = strtoll(text, NULL, 10);
	return 0;
}

static int set_ask(char *text)
{
	ask_opens = strcmp(text, "opens") == 0;
	ask_writes = strcmp(text, "writes") == 0;
	return 0;
}

/* The result is what Slurm gets. */
static int call(char *name)
{
	static const struct {
		const char *name;
		spank_f *function;
	} callbacks[] = {{"init", slurm_spank_init},
			 {"init_post_opt", slurm_spank_init_post_opt},
			 {"task_post_fork", slurm_spank_task_post_fork},
			 {"task_exit", slurm_spank_task_exit},
			 {"exit", slurm_spank_exit},
			 {"job_prolog", slurm_spank_job_prolog},
			 {"job_epilog", slurm_spank_job_epilog}};

	for (size_t i = 0; i < sizeof(callbacks) / sizeof(callbacks[0]); i++)
		if (strcmp(callbacks[i].name, name) == 0)
			return callbacks[i].function(NULL, argument_count, arguments);
	return -1;
}

/* Until "leave", a child runs the commands. The result is its exit status. */
static int fork_child(char *text)
{
	pid_t child = fork();
	int status;

	(void)text;
	if (child == 0)
		return 0;
	waitpid(child, &status, 0);
	return status;
}

static void forget(char **list, int *count)
{
	while (*count > 0)
		free(list[--*count]);
}

static int leave(char *text)
{
	(void)text;
	forget(arguments, &argument_count);
	forget(job_environment, &job_environment_count);
	exit(0);
}

static const struct {
	const char *name;
	int (*run)(char *text);
} commands[] = {
	{"context ", set_context},   /* remote, script, slurmd, srun, sbatch */
	{"argument ", add_argument}, /* of plugstack.conf */
	{"item ", set_item},         /* NAME VALUE: for spank_get_item() */
	{"job ", set_variable},      /* NAME=VALUE: for spank_getenv() */
	{"own ", set_own_variable},  /* NAME=VALUE: for getenv() */
	{"realtime ", set_realtime}, /* NANOSECONDS since the epoch, or -1 */
	{"ask ", set_ask},           /* opens, writes, or nothing */
	{"call ", call},             /* a callback */
	{"fork", fork_child},
	{"leave", leave},
};

int main(void)
{
	static char line[LINE];

	for (;;) {
		int result = -1;

		listen_for_line(line);
		for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
			size_t length = strlen(commands[i].name);

			if (strncmp(line, commands[i].name, length) != 0)
				continue;
			unescape(line + length);
			result = commands[i].run(line + length);
			break;
		}
		say("done %d", result);
	}
}
