/*
 * Tells the LDMS job manager of this node (`twistd ldmsjob`) what Slurm does with jobs, steps and
 * tasks: one JSON object per line and event. A SPANK plugin; needs nothing but the C library.
 *
 * `ldmsjob spank build` compiles it against the headers of the Slurm that is to load it, since Slurm
 * refuses plugins of other versions. plugstack.conf:
 *
 *     optional /usr/lib64/slurm/ldmsjob_notifier.so path=/run/ldmsjob/notifier.sock
 *
 * Manners: every function returns success, whatever happened. A job never waits for the daemon for
 * more than 2 ms in a process (delivery.h). No threads, no locks, no allocation. Of what Slurm's
 * processes own, only errno is changed.
 */
#define _GNU_SOURCE

#include <stdlib.h>
#include <sys/types.h>

#include <slurm/spank.h>

#include "json.h"

#include "delivery.h"

SPANK_PLUGIN(ldmsjob_notifier, 1)

#define DEFAULT_PATH "/run/ldmsjob/notifier.sock"
#define LINE_SIZE 8192
#define NO_VALUE 0xfffffffeU      /* how Slurm says that a number is not known; also one more */
#define FIRST_SPECIAL 0xfffffff0U /* from here on, step ids are Slurm's own: batch, extern, ... */

/* The most bytes of each kind of string in a line; together they leave room for all numbers. */
#define NAME_SIZE 256
#define JOB_NAME_SIZE 1024
#define WORKFLOW_SIZE 1023
#define SUBSCRIBER_SIZE 1023
#define VALUE_SIZE 4096 /* of values before they are escaped and cut */

/* What is the same in all lines of a process. */
static struct {
	pid_t pid; /* 0: not yet known */
	int64_t start;
	int64_t sequence;
	char boot[40];
	char node[NAME_SIZE];
	uint32_t started_tasks;
} process;

struct event {
	const char *schema;
	const char *name;
	const char *context;
	bool last; /* nothing follows, or not soon: see deliver() */
};

/* -- settings ---------------------------------------------------------------------------------- */

/* Only slurmd's log is for administrators: the rest of the contexts would tell every user. */
static void complain_of(const char *argument)
{
	if (spank_context() == S_CTX_SLURMD)
		slurm_error("ldmsjob_notifier: plugstack.conf: '%s' is not understood and ignored; "
			    "known: path=/ABSOLUTE/PATH of at most %zu bytes",
			    argument, sizeof(delivery.path) - 1);
}

/* Callbacks get the arguments each time, and slurm_spank_init is not called in all contexts. */
static void read_arguments(int count, char *arguments[])
{
	snprintf(delivery.path, sizeof(delivery.path), "%s", DEFAULT_PATH);
	for (int i = 0; i < count; i++) {
		const char *value = arguments[i] + strlen("path=");

		if (strncmp(arguments[i], "path=", strlen("path=")) == 0 && *value == '/' &&
		    strlen(value) < sizeof(delivery.path))
			snprintf(delivery.path, sizeof(delivery.path), "%s", value);
		else
			complain_of(arguments[i]);
	}
}

/* -- who sends --------------------------------------------------------------------------------- */

static void read_text(const char *name, char *text, size_t size)
{
	int file = open(name, O_RDONLY | O_CLOEXEC);
	ssize_t length = file >= 0 ? read(file, text, size - 1) : 0;

	if (file >= 0)
		close(file);
	text[length > 0 ? length : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
}

/* Field 22 of /proc/self/stat; the name in field 2 may contain anything, spaces and ')' too. */
static int64_t start_time(void)
{
	char text[1024];
	const char *at;

	read_text("/proc/self/stat", text, sizeof(text));
	at = strrchr(text, ')');
	for (int field = 2; at != NULL && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at != NULL ? strtoll(at, NULL, 10) : 0;
}

/*
 * The process's own environment has the node's true name, given by slurmd. A job's environment may
 * have the name of the node that it was submitted from.
 */
static void find_node_name(void)
{
	const char *name = getenv("SLURMD_NODENAME");

	if (name != NULL && *name != '\0')
		snprintf(process.node, sizeof(process.node), "%s", name);
	else if (gethostname(process.node, sizeof(process.node) - 1) != 0)
		process.node[0] = '\0';
}

/* Finds out who we are, at the first event and again after a fork. */
static void identify(void)
{
	if (process.pid == getpid())
		return;
	if (process.pid != 0)
		start_afresh();
	memset(&process, 0, sizeof(process));
	process.pid = getpid();
	process.start = start_time();
	read_text("/proc/sys/kernel/random/boot_id", process.boot, sizeof(process.boot));
	find_node_name();
}

/* -- what is known ----------------------------------------------------------------------------- */

/* Number items have several C types, and each must be read as its own. */
static int64_t item(spank_t spank, spank_item_t which)
{
	uid_t id;
	int integer;
	uint16_t small;
	uint32_t number;
	uint64_t large;

	switch (which) {
	case S_JOB_UID:
	case S_JOB_GID: /* uid_t and gid_t are the same type */
		return spank_get_item(spank, which, &id) == ESPANK_SUCCESS ? (int64_t)id : -1;
	case S_TASK_ID:
	case S_TASK_EXIT_STATUS:
	case S_TASK_PID: /* pid_t is int */
		return spank_get_item(spank, which, &integer) == ESPANK_SUCCESS ? integer : -1;
	case S_JOB_NCPUS:
		return spank_get_item(spank, which, &small) == ESPANK_SUCCESS ? small : -1;
	case S_STEP_ALLOC_MEM:
		if (spank_get_item(spank, which, &large) != ESPANK_SUCCESS || large > INT64_MAX)
			return -1;
		return (int64_t)large;
	default:
		if (spank_get_item(spank, which, &number) != ESPANK_SUCCESS || number >= NO_VALUE)
			return -1;
		return number;
	}
}

/* Leaves out what is not known. */
static void put_number(struct json *line, const char *key, int64_t value)
{
	if (value >= 0)
		json_number(line, key, value);
}

/* Counts that are 0 are not known either. */
static void put_count(struct json *line, const char *key, int64_t value)
{
	if (value > 0)
		json_number(line, key, value);
}

/*
 * A variable of the job's environment; of the process's own in prolog and epilog, which Slurm fills
 * for them. NULL when there is none. A value that is too long is cut.
 */
static const char *variable(spank_t spank, const char *name)
{
	static char value[VALUE_SIZE];
	spank_err_t error;

	if (spank_context() == S_CTX_JOB_SCRIPT)
		return getenv(name);
	memset(value, 0, sizeof(value));
	error = spank_getenv(spank, name, value, (int)sizeof(value));
	value[sizeof(value) - 1] = '\0';
	return error == ESPANK_SUCCESS || error == ESPANK_NOSPACE ? value : NULL;
}

static void put_string(struct json *line, const char *key, const char *value, size_t most)
{
	if (value != NULL && *value != '\0')
		json_string(line, key, value, most);
}

/* The whole number that a variable is, or -1. */
static int64_t variable_number(spank_t spank, const char *name)
{
	const char *text = variable(spank, name);
	char *end;
	long long number;

	if (text == NULL || *text < '0' || *text > '9')
		return -1;
	errno = 0;
	number = strtoll(text, &end, 10);
	return *end == '\0' && errno == 0 && number < NO_VALUE ? number : -1;
}

/* -- members of `data` that several events have ------------------------------------------------ */

static void put_owner(struct json *line, spank_t spank)
{
	put_number(line, "uid", item(spank, S_JOB_UID));
	put_number(line, "gid", item(spank, S_JOB_GID));
}

static void put_step_size(struct json *line, spank_t spank)
{
	put_count(line, "ncpus", item(spank, S_JOB_NCPUS));
	put_count(line, "nnodes", item(spank, S_JOB_NNODES));
	put_count(line, "local_tasks", item(spank, S_JOB_LOCAL_TASK_COUNT));
	put_count(line, "total_tasks", item(spank, S_JOB_TOTAL_TASK_COUNT));
}

/* Which task of the step. */
static void put_task(struct json *line, spank_t spank)
{
	put_number(line, "task_id", item(spank, S_TASK_ID));
	put_number(line, "task_global_id", item(spank, S_TASK_GLOBAL_ID));
	put_count(line, "task_pid", item(spank, S_TASK_PID));
}

/* Slurm passes variables from submission to prolog and epilog under another name. */
static void put_workflow(struct json *line, spank_t spank)
{
	bool script = spank_context() == S_CTX_JOB_SCRIPT;

	put_string(line, "workflow_id",
		   variable(spank, script ? "SPANK_WORKFLOW_ID" : "WORKFLOW_ID"), WORKFLOW_SIZE);
}

/*
 * A user's own JSON object, on one line. Raw control characters in it can only be space. Nothing in
 * it may look like the beginning of a line, by which the daemon finds those behind torn ones.
 */
static void put_subscriber_data(struct json *line, spank_t spank)
{
	const char *text = variable(spank, "SUBSCRIBER_DATA");

	if (text == NULL || strlen(text) > SUBSCRIBER_SIZE || !is_object(text))
		return;
	json_key(line, "subscriber_data");
	for (; *text != '\0'; text++) {
		json_raw(line, (unsigned char)*text < 0x20 ? " " : text, 1);
		if (strncmp(text, "{\"notifier\"", strlen("{\"notifier\"")) == 0)
			json_text(line, " ");
	}
}

static void put_names(struct json *line, spank_t spank)
{
	put_string(line, "partition", variable(spank, "SLURM_JOB_PARTITION"), NAME_SIZE);
	put_string(line, "account", variable(spank, "SLURM_JOB_ACCOUNT"), NAME_SIZE);
	put_string(line, "job_user", variable(spank, "SLURM_JOB_USER"), NAME_SIZE);
	put_string(line, "job_name", variable(spank, "SLURM_JOB_NAME"), JOB_NAME_SIZE);
}

/* Only steps have items for these. Slurm newer than 22.05 has variables for prologs. */
static void put_array(struct json *line, spank_t spank)
{
	bool script = spank_context() == S_CTX_JOB_SCRIPT;
	int64_t job = script ? variable_number(spank, "SLURM_ARRAY_JOB_ID")
			     : item(spank, S_JOB_ARRAY_ID);
	int64_t task = script ? variable_number(spank, "SLURM_ARRAY_TASK_ID")
			      : item(spank, S_JOB_ARRAY_TASK_ID);

	if (job <= 0 || task < 0)
		return; /* a job that is no array has its own id there, and no task */
	json_number(line, "array_job_id", job);
	json_number(line, "array_task_id", task);
}

/*
 * Steps have the ids of all components of their job. A job that was submitted from inside of one
 * has inherited that list: its own id is not in it.
 */
static void put_components(struct json *line, spank_t spank)
{
	int64_t size = variable_number(spank, "SLURM_HET_SIZE");
	int64_t job = item(spank, S_JOB_ID);

	for (int64_t i = 0; i < size && i < 128; i++) {
		char name[48];

		snprintf(name, sizeof(name), "SLURM_JOB_ID_HET_GROUP_%" PRId64, i);
		if (variable_number(spank, name) == job) {
			put_count(line, "het_job_id",
				  variable_number(spank, "SLURM_JOB_ID_HET_GROUP_0"));
			json_number(line, "het_job_offset", i);
			return;
		}
	}
}

/* -- lines ------------------------------------------------------------------------------------- */

static char line_buffer[LINE_SIZE];

static uint32_t job_id(spank_t spank)
{
	int64_t id = item(spank, S_JOB_ID);

	return id > 0 ? (uint32_t)id : 0;
}

static void put_identity(struct json *line)
{
	json_object(line, "notifier");
	json_string(line, "boot", process.boot, sizeof(process.boot));
	json_number(line, "pid", process.pid);
	json_number(line, "start", process.start);
	json_number(line, "seq", ++process.sequence);
	json_text(line, "}");
}

/* Begins the line of an event; its caller adds what it knows to `data`. */
static struct json begin_line(spank_t spank, const struct event *event)
{
	int64_t now = clock_ns(CLOCK_REALTIME);
	int64_t step = item(spank, S_JOB_STEPID);
	bool of_step = spank_context() == S_CTX_REMOTE;
	char context[NAME_SIZE + 64];
	struct json line;

	snprintf(context, sizeof(context), "%s(%s),%" PRIu32 ",%" PRId64, process.node,
		 event->context, job_id(spank), of_step ? step : 0);
	json_begin(&line, line_buffer, sizeof(line_buffer));
	json_text(&line, "{");
	put_identity(&line);
	json_string(&line, "schema", event->schema, NAME_SIZE);
	json_string(&line, "event", event->name, NAME_SIZE);
	json_number(&line, "timestamp", now / SECOND_NS);
	json_number(&line, "timestamp_ns", now);
	json_string(&line, "context", context, 2 * NAME_SIZE);
	json_object(&line, "data");
	json_number(&line, "job_id", job_id(spank));
	if (of_step) {
		json_number(&line, "step_id", step);
		put_number(&line, "nodeid", item(spank, S_JOB_NODEID));
	}
	put_string(&line, "node", process.node, NAME_SIZE);
	return line;
}

static void end_line(struct json *line, const struct event *event)
{
	json_text(line, "}}\n");
	if (!line->overflow)
		deliver(line->text, line->used, event->last);
}

/* Whether this is slurmstepd with a step of the user: others are Slurm's own affair. */
static bool in_ordinary_step(spank_t spank)
{
	uint32_t step;

	return spank_context() == S_CTX_REMOTE &&
	       spank_get_item(spank, S_JOB_STEPID, &step) == ESPANK_SUCCESS && step < FIRST_SPECIAL;
}

/* -- what Slurm calls -------------------------------------------------------------------------- */

int slurm_spank_init(spank_t spank, int argc, char *argv[])
{
	(void)spank;
	read_arguments(argc, argv);
	return ESPANK_SUCCESS;
}

/*
 * The first callback with all the step's facts; still as root. At submission: for prologs. The
 * restart count is not told: the job's environment may have that of the job that submitted it.
 */
int slurm_spank_init_post_opt(spank_t spank, int argc, char *argv[])
{
	static const struct event event = {"slurm_step_data", "step_init", "slurmstepd", false};
	spank_context_t context = spank_context();
	struct json line;

	if (context == S_CTX_LOCAL || context == S_CTX_ALLOCATOR) {
		if (getenv("WORKFLOW_ID") != NULL)
			spank_job_control_setenv(spank, "WORKFLOW_ID", getenv("WORKFLOW_ID"), 1);
		return ESPANK_SUCCESS;
	}
	if (!in_ordinary_step(spank))
		return ESPANK_SUCCESS;
	read_arguments(argc, argv);
	identify();
	line = begin_line(spank, &event);
	put_count(&line, "alloc_mb", item(spank, S_STEP_ALLOC_MEM));
	put_step_size(&line, spank);
	put_owner(&line, spank);
	put_array(&line, spank);
	put_components(&line, spank);
	put_names(&line, spank);
	put_subscriber_data(&line, spank);
	put_workflow(&line, spank);
	end_line(&line, &event);
	return ESPANK_SUCCESS;
}

/*
 * In slurmstepd, which alone knows the pid here, one task after the other, before the program
 * starts. After the last one there may be nothing to tell for days: its answer is waited for.
 */
int slurm_spank_task_post_fork(spank_t spank, int argc, char *argv[])
{
	struct event event = {"slurm_task_data", "task_init_priv", "slurmstepd", false};
	struct json line;

	if (!in_ordinary_step(spank))
		return ESPANK_SUCCESS;
	read_arguments(argc, argv);
	identify();
	process.started_tasks++;
	event.last = process.started_tasks >= item(spank, S_JOB_LOCAL_TASK_COUNT);
	line = begin_line(spank, &event);
	put_task(&line, spank);
	put_owner(&line, spank);
	put_step_size(&line, spank);
	put_workflow(&line, spank);
	end_line(&line, &event);
	return ESPANK_SUCCESS;
}

int slurm_spank_task_exit(spank_t spank, int argc, char *argv[])
{
	static const struct event event = {"slurm_task_data", "task_exit", "slurmstepd", false};
	struct json line;

	if (!in_ordinary_step(spank))
		return ESPANK_SUCCESS;
	read_arguments(argc, argv);
	identify();
	line = begin_line(spank, &event);
	put_task(&line, spank);
	put_number(&line, "task_exit_status", item(spank, S_TASK_EXIT_STATUS));
	put_workflow(&line, spank);
	end_line(&line, &event);
	return ESPANK_SUCCESS;
}

int slurm_spank_exit(spank_t spank, int argc, char *argv[])
{
	static const struct event event = {"slurm_step_data", "step_exit", "slurmstepd", true};
	struct json line;

	if (!in_ordinary_step(spank))
		return ESPANK_SUCCESS;
	read_arguments(argc, argv);
	identify();
	line = begin_line(spank, &event);
	put_workflow(&line, spank);
	end_line(&line, &event);
	hang_up();
	return ESPANK_SUCCESS;
}

/* Sizes of the job come from the environment: there are no items for them here. */
int slurm_spank_job_prolog(spank_t spank, int argc, char *argv[])
{
	static const struct event event = {"slurm_job_data", "init", "prolog", true};
	struct json line;

	read_arguments(argc, argv);
	identify();
	line = begin_line(spank, &event);
	put_owner(&line, spank);
	put_count(&line, "nnodes", variable_number(spank, "SLURM_JOB_NUM_NODES"));
	put_count(&line, "total_tasks", variable_number(spank, "SLURM_JOB_NTASKS"));
	put_array(&line, spank);
	put_count(&line, "het_job_id", variable_number(spank, "SLURM_HET_JOB_ID"));
	put_number(&line, "het_job_offset", variable_number(spank, "SLURM_HET_JOB_OFFSET"));
	put_number(&line, "restart_count", variable_number(spank, "SLURM_JOB_RESTART_COUNT"));
	put_names(&line, spank);
	put_workflow(&line, spank);
	end_line(&line, &event);
	hang_up();
	return ESPANK_SUCCESS;
}

/* The restart count is not told: that of a job to be requeued is the next run's already. */
int slurm_spank_job_epilog(spank_t spank, int argc, char *argv[])
{
	static const struct event event = {"slurm_job_data", "exit", "epilog", true};
	struct json line;

	read_arguments(argc, argv);
	identify();
	line = begin_line(spank, &event);
	put_owner(&line, spank);
	put_number(&line, "job_exit_status", variable_number(spank, "SLURM_JOB_EXIT_CODE"));
	put_names(&line, spank);
	put_workflow(&line, spank);
	end_line(&line, &event);
	hang_up();
	return ESPANK_SUCCESS;
}
