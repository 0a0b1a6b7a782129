/*
 * Appends lines to the spool as fast as it can, as the notifier does: spooler PATH COUNT. Each byte
 * of its standard input is the signal for so many.
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
	long number = 0;
	char line[256];
	char byte;

	if (count <= 0)
		return 2;
	snprintf(delivery.path, sizeof(delivery.path), "%s", argv[1]);
	delivery.spooling = true;
	while (read(STDIN_FILENO, &byte, 1) > 0) {
		for (long i = 0; i < count; i++) {
			int length = snprintf(line, sizeof(line),
					      "{\"notifier\":{\"boot\":\"b\",\"pid\":%ld,\"start\":1,"
					      "\"seq\":%ld},\"event\":\"none\"}\n",
					      (long)getpid(), ++number);

			deliver(line, (size_t)length, false);
		}
	}
	return 0;
}
