/*
 * Appends lines to the spool as fast as it can, as the notifier does: spooler PATH COUNT. Its
 * standard input's end is the signal to begin.
 */
#define _GNU_SOURCE

#include <inttypes.h>
#include <stdlib.h>

static void slurm_info(const char *format, ...)
{
	(void)format;
}

#include "delivery.h"

int main(int argc, char *argv[])
{
	long count = argc == 3 ? atol(argv[2]) : 0;
	char line[256];
	char byte;

	if (count <= 0)
		return 2;
	snprintf(delivery.path, sizeof(delivery.path), "%s", argv[1]);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	delivery.spooling = true;
	for (long number = 1; number <= count; number++) {
		int length = snprintf(line, sizeof(line),
				      "{\"notifier\":{\"boot\":\"b\",\"pid\":%ld,\"start\":1,"
				      "\"seq\":%ld},\"event\":\"none\"}\n",
				      (long)getpid(), number);

		deliver(line, (size_t)length, false);
	}
	return 0;
}
