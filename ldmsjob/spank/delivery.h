/*
 * Getting a line to the daemon of this node: over its socket, else through a file next to it.
 *
 * A job must never wait for the daemon. All waiting of a process together is WAIT_NS; when that is
 * used up, or the daemon is not there, lines are appended to the file PATH.spool, which the daemon
 * reads. Whoever ran out of time leaves PATH.mark, which has other processes not even try for
 * MARK_NS. A line that does not fit into the spool is counted in PATH.lost by a byte.
 *
 * The daemon answers each line that it has taken by one byte. Lines are kept until they are
 * answered; what is not goes to the spool as well. The daemon knows lines by their `notifier` member
 * and takes each once. docs/slurm.md, The notifier, says all of this to those who run it.
 */
#ifndef LDMSJOB_DELIVERY_H
#define LDMSJOB_DELIVERY_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS INT64_C(1000000000)
#define WAIT_NS INT64_C(2000000)
#define MARK_NS (5 * SECOND_NS)
#define SPOOL_LIMIT (16 << 20)
#define LOST_LIMIT (1 << 20)
#define PENDING_SIZE (32 << 10) /* enough for the task starts of 64 tasks */
#define REWRITES 8

static struct {
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int connection;     /* -1: none */
	bool spooling;      /* this process has done with the socket */
	bool torn;          /* the spool ends with a part of a line of ours */
	bool complained;    /* once is enough */
	int64_t wait_left;
	size_t pending;     /* bytes of `unanswered` in use */
} delivery = {.connection = -1, .wait_left = WAIT_NS};

static char unanswered[PENDING_SIZE]; /* lines that were sent, oldest first */

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * SECOND_NS + now.tv_nsec;
}

/* -- files next to the socket ------------------------------------------------------------------ */

static void file_name(char *name, size_t size, const char *suffix)
{
	snprintf(name, size, "%s%s", delivery.path, suffix);
}

/* Gives the directory of the socket. */
static void directory_name(char *name)
{
	char *slash;

	memcpy(name, delivery.path, sizeof(delivery.path));
	slash = strrchr(name, '/');
	if (slash != NULL && slash != name)
		*slash = '\0';
}

/* A daemon that is not root could not read what root makes. Only for a file that we have made. */
static void hand_to_daemon(int file)
{
	char directory[sizeof(delivery.path)];
	struct stat status;

	directory_name(directory);
	if (geteuid() != 0 || stat(directory, &status) != 0 || status.st_uid == 0)
		return;
	if (fchown(file, status.st_uid, status.st_gid) != 0)
		return; /* then the daemon says that it cannot read it */
}

/* Makes the file, and its directory if need be. EEXIST: it has come into being meanwhile. */
static int make_file(const char *name, int flags)
{
	char directory[sizeof(delivery.path)];
	int file = open(name, flags | O_CREAT | O_EXCL, 0600);

	if (file < 0 && errno == ENOENT) {
		directory_name(directory);
		mkdir(directory, 0700);
		file = open(name, flags | O_CREAT | O_EXCL, 0600);
	}
	if (file >= 0)
		hand_to_daemon(file);
	return file;
}

/*
 * Opens one to append to it; gives its size. Never waits, and takes nothing but a plain file of one
 * name: another may be a file of somebody else.
 */
static int open_file(const char *suffix, off_t *size)
{
	const int flags = O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
	char name[sizeof(delivery.path) + 8];
	struct stat status;
	int file = -1;

	file_name(name, sizeof(name), suffix);
	errno = EEXIST;
	/* Another writer may make it and the daemon rename that, both while we look. */
	for (int i = 0; file < 0 && errno == EEXIST && i < REWRITES; i++) {
		file = open(name, flags);
		if (file < 0 && errno == ENOENT)
			file = make_file(name, flags);
	}
	if (file < 0)
		return -1;
	if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_nlink > 1) {
		close(file);
		errno = EINVAL;
		return -1;
	}
	*size = status.st_size;
	return file;
}

static void touch_mark(void)
{
	off_t size;
	int file = open_file(".mark", &size);

	if (file >= 0) {
		futimens(file, NULL);
		close(file);
	}
}

static bool recently_marked(void)
{
	char name[sizeof(delivery.path) + 8];
	struct stat status;
	int64_t age;

	file_name(name, sizeof(name), ".mark");
	if (stat(name, &status) != 0)
		return false;
	age = clock_ns(CLOCK_REALTIME) - (status.st_mtim.tv_sec * SECOND_NS + status.st_mtim.tv_nsec);
	return age >= 0 && age < MARK_NS;
}

/* Whether a file of that size may grow so much. Growing beyond RLIMIT_FSIZE would be a signal. */
static bool may_grow(off_t size, size_t length)
{
	struct rlimit limit;
	rlim_t wanted = (rlim_t)size + length;

	return wanted <= SPOOL_LIMIT &&
	       (getrlimit(RLIMIT_FSIZE, &limit) != 0 || wanted <= limit.rlim_cur);
}

static void count_lost(int reason)
{
	off_t size = 0;
	int file = open_file(".lost", &size);
	bool counted = file >= 0 &&
		       (size >= LOST_LIMIT || (may_grow(size, 1) && write(file, ".", 1) == 1));

	if (file >= 0)
		close(file);
	if (!delivery.complained)
		slurm_info("ldmsjob_notifier: an event was lost%s: %s.spool: %s",
			   counted ? "" : " and not counted", delivery.path, strerror(reason));
	delivery.complained = true;
}

/* Gives whether the whole line was written. After a part of a line a new line is begun. */
static bool append(int file, const char *line, size_t length)
{
	ssize_t written;

	if (delivery.torn && write(file, "\n", 1) != 1)
		return false;
	delivery.torn = false;
	written = write(file, line, length);
	if (written >= 0 && (size_t)written == length)
		return true;
	if (written >= 0)
		errno = ENOSPC;
	delivery.torn = written > 0 && write(file, "\n", 1) != 1;
	return false;
}

/* Whether the spool is still the file that was written to: the daemon renames it to read the rest. */
static bool still_the_spool(int file)
{
	char name[sizeof(delivery.path) + 8];
	struct stat ours, present;

	file_name(name, sizeof(name), ".spool");
	return fstat(file, &ours) == 0 && stat(name, &present) == 0 &&
	       ours.st_dev == present.st_dev && ours.st_ino == present.st_ino;
}

static void spool(const char *line, size_t length)
{
	for (int i = 0; i < REWRITES; i++) {
		off_t size;
		int reason = 0;
		bool settled;
		int file = open_file(".spool", &size);

		if (file < 0) {
			count_lost(errno);
			return;
		}
		if (!may_grow(size, length + 2)) /* before and behind a part of a line */
			reason = EFBIG;
		else if (!append(file, line, length))
			reason = errno;
		settled = reason != 0 || still_the_spool(file);
		close(file);
		if (reason != 0)
			count_lost(reason);
		if (settled)
			return;
	}
	count_lost(ESTALE); /* it may have been read each time, but nobody has said so */
}

/* -- the socket -------------------------------------------------------------------------------- */

static size_t line_length(const char *lines, size_t size)
{
	const char *end = memchr(lines, '\n', size);

	return end != NULL ? (size_t)(end - lines) + 1 : size;
}

static void hang_up(void)
{
	if (delivery.connection >= 0)
		close(delivery.connection);
	delivery.connection = -1;
}

/* From here on this process spools, beginning with what has no answer. */
static void use_spool(void)
{
	size_t at = 0;

	hang_up();
	delivery.spooling = true;
	while (at < delivery.pending) {
		size_t length = line_length(unanswered + at, delivery.pending - at);

		spool(unanswered + at, length);
		at += length;
	}
	delivery.pending = 0;
}

static void run_out_of_time(void)
{
	touch_mark();
	use_spool();
}

static void connect_to_daemon(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (recently_marked()) {
		use_spool();
		return;
	}
	memcpy(address.sun_path, delivery.path, sizeof(address.sun_path));
	delivery.connection = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (delivery.connection < 0 ||
	    connect(delivery.connection, (struct sockaddr *)&address, sizeof(address)) != 0)
		use_spool();
}

/* Forgets the lines that were answered, oldest first. A byte that is no answer ends the talk. */
static void take_answers(void)
{
	char answers[64];
	ssize_t count, i = 0;
	size_t answered = 0;

	do
		count = recv(delivery.connection, answers, sizeof(answers), MSG_DONTWAIT);
	while (count < 0 && errno == EINTR);
	if (count < 0 && errno == EAGAIN)
		return;
	for (; i < count && (answers[i] == '+' || answers[i] == '-'); i++)
		answered += line_length(unanswered + answered, delivery.pending - answered);
	delivery.pending -= answered;
	memmove(unanswered, unanswered + answered, delivery.pending);
	if (count <= 0 || i < count)
		use_spool();
}

/* Waits, within what is left of this process's time, until so little is without answer. */
static void await_answers(size_t most_pending)
{
	while (delivery.pending > most_pending) {
		struct pollfd watched = {.fd = delivery.connection, .events = POLLIN};
		struct timespec left = {.tv_nsec = (long)delivery.wait_left};
		int64_t begun = clock_ns(CLOCK_MONOTONIC);
		int ready;

		if (delivery.wait_left <= 0) {
			run_out_of_time();
			return;
		}
		ready = ppoll(&watched, 1, &left, NULL);
		delivery.wait_left -= clock_ns(CLOCK_MONOTONIC) - begun;
		if (ready > 0)
			take_answers();
		else if (ready == 0)
			delivery.wait_left = 0;
	}
}

static void send_line(const char *line, size_t length)
{
	ssize_t sent;

	take_answers();
	if (!delivery.spooling && delivery.pending + length > sizeof(unanswered))
		await_answers(sizeof(unanswered) - length);
	if (delivery.spooling) {
		spool(line, length);
		return;
	}
	memcpy(unanswered + delivery.pending, line, length);
	delivery.pending += length;
	do
		sent = send(delivery.connection, line, length, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent < 0 && errno == EINTR);
	if (sent < 0 && errno != EAGAIN)
		use_spool();
	else if (sent != (ssize_t)length)
		run_out_of_time(); /* the daemon has not read for long */
}

/*
 * Hands over a line, which ends with a line feed. With `settle`, the answers of all lines of this
 * process are waited for: what follows may be long in coming.
 */
static void deliver(const char *line, size_t length, bool settle)
{
	if (delivery.connection < 0 && !delivery.spooling)
		connect_to_daemon();
	if (delivery.spooling)
		spool(line, length);
	else
		send_line(line, length);
	if (settle && !delivery.spooling)
		await_answers(0);
}

/* After a fork: the connection and what waits for answers are the parent's. */
static void start_afresh(void)
{
	hang_up();
	delivery.spooling = false;
	delivery.torn = false;
	delivery.complained = false;
	delivery.wait_left = WAIT_NS;
	delivery.pending = 0;
}

#endif
